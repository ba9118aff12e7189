"""python -m src.reco.coders.encoder IN.png OUT.bits --set_target_bpp N --cfg FILES -target_device cpu"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from PIL import Image

MODELS = {12: 0, 25: 1, 50: 2, 75: 2, 100: 3}


def behaviour():
    return Path("behaviour").read_text().strip() if Path("behaviour").exists() else ""


class RecoEncoderProcess:
    def __init__(self, coder):
        self.coded = 0

    def process(self, cmd_args):
        parser = argparse.ArgumentParser()
        parser.add_argument("input_path")
        parser.add_argument("bin_path")
        parser.add_argument("--set_target_bpp", type=int)
        parser.add_argument("--cfg", nargs="+", default=[])
        parser.add_argument("-target_device", default="gpu")
        args = parser.parse_args(cmd_args)
        print("Codec/Encoder: name=standin, version=1.0")
        for path in args.cfg:
            json.loads(Path(path).read_text())
        assert args.target_device == "cpu"
        with Path("commands").open("a") as file:  # what the tests count
            file.write(f"{os.getpid()} encoder {args.set_target_bpp} {' '.join(args.cfg)}\n")
        word = behaviour()
        if word == "crash" or (word == "crash the second time" and self.coded):
            raise RuntimeError("the encoder's own reason")
        if word == "hang":
            child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
            Path("child").write_text(str(child.pid))
            time.sleep(600)
        if word == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if word == "leave":
            sys.exit("left early")
        self.coded += 1
        logs = Path(args.bin_path).parent.parent / "log"  # the software logs above its bitstream
        logs.mkdir(exist_ok=True)
        (logs / "times.txt").write_text("0.1")
        if word == "write nothing":
            return
        if word == "write an empty file":
            Path(args.bin_path).touch()
            return
        picture = Image.open(args.input_path).convert("RGB")
        if word == "crash on red pictures" and picture.getpixel((0, 0)) == (255, 0, 0):
            raise RuntimeError("the encoder's own reason")
        width, height = picture.size
        cells = picture.resize((-(-width // 16), -(-height // 16)), Image.BOX)
        model = MODELS.get(args.set_target_bpp, 3)
        print(f"target bits: {args.set_target_bpp / 100}")
        print("begin brm of the tool id  0" if model else "upper search")
        if word != "say no model":
            print(f"begin brm of the tool id  {model}")
        print("Search good results\nMD5: (0, 0, 0)\nLoading models: 0.1 second")
        drift = self.coded - 1 if word == "remember" else 0
        header = json.dumps([width, height, cells.width, cells.height, args.set_target_bpp + drift]).encode()
        content = header + b"\n" + cells.tobytes()
        size = round(1.02 * args.set_target_bpp / 100 * width * height / 8)
        Path(args.bin_path).write_bytes(content.ljust(size, b"\0"))


if __name__ == "__main__":
    RecoEncoderProcess(None).process(None)
