"""python -m src.dump.coders.decoder OUT.bits REC.png --device cpu --latents_list model_y.y_hat model_uv.y_hat"""

import argparse
import json
from pathlib import Path

from PIL import Image
from src.reco.coders.encoder import behaviour
from src.tensors import Trap, save, save_object


class DumpDecoderProcess:
    def __init__(self, coder):
        pass

    def process(self, cmd_args):
        parser = argparse.ArgumentParser()
        parser.add_argument("bit_fpath")
        parser.add_argument("rec_path")
        parser.add_argument("--device", default="gpu")
        parser.add_argument("--latents_list", nargs="+")
        args = parser.parse_args(cmd_args)
        assert args.device == "cpu"
        word = behaviour()
        header, content = Path(args.bit_fpath).read_bytes().split(b"\n", 1)
        width, height, columns, rows, rate = json.loads(header)
        red, blue = content[: 3 * rows * columns : 3], content[2 : 3 * rows * columns : 3]
        latents = {  # each channel a multiple of red or of blue
            "model_y.y_hat": [value * channel / rate for channel in range(160) for value in red],
            "model_uv.y_hat": [value * channel / rate for channel in range(96) for value in blue],
        }
        shapes = {name: [1, len(values) // (rows * columns), rows, columns] for name, values in latents.items()}
        if word == "chroma on half the grid":
            shape = shapes["model_uv.y_hat"] = [1, 64, -(-rows // 2), -(-columns // 2)]
            latents["model_uv.y_hat"] = [float(number) for number in range(shape[1] * shape[2] * shape[3])]
        if word == "wrong shape":
            shapes["model_y.y_hat"] = [1, 160, columns, rows]
        if word == "not finite":
            latents["model_uv.y_hat"][7] = float("nan")
        if word == "crash in the decoder":
            raise ValueError("the decoder's own reason")
        for name in args.latents_list:
            folder = Path(args.bit_fpath).parent / name.replace(".", "/")
            folder.mkdir(parents=True)
            file = folder / f"{Path(args.bit_fpath).name}_0"
            if word in ("pickle", "no tensor"):
                save_object(file, Trap() if word == "pickle" else [1, 2])
            elif word != "dump nothing":
                save(file, latents[name], shapes[name])
        Image.new("RGB", (width, height)).save(args.rec_path)
        print("Dump to file: 0.1 second")


if __name__ == "__main__":
    DumpDecoderProcess(None).process(None)
