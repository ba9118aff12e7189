"""The page: its addresses without a browser, and the page itself in a real one."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import REPOSITORY
from PIL import Image

from latentface.apps import serve
from latentface.apps.look import alternated, strongest_channels
from latentface.apps.serve import HEADERS, ServeConfig, build, draw_example
from latentface.cli import main
from latentface.codecs.dct import DctCodec
from latentface.inference.detector import Detector

testclient = pytest.importorskip("starlette.testclient")
SIZE = 320
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def png(rgb: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(rgb).save(file, format="PNG")
    return file.getvalue()


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


@pytest.fixture(scope="module")
def client():
    application = build(ServeConfig(size=SIZE, megabytes=1))
    with testclient.TestClient(application, base_url="http://127.0.0.1") as client:
        yield client


def ask(client, name: str, content: bytes, codec: str = "dct", rate: object = 50):
    return client.post(f"/api/look?codec={codec}&rate={rate}", content=content, headers={"X-Name": name})


def test_page_and_its_files_are_complete_and_local(client) -> None:
    page = client.get("/")
    assert page.status_code == 200
    assert {name.lower(): value for name, value in HEADERS.items()}.items() <= dict(page.headers).items()
    for name in re.findall(r'(?:src|href)="([^"]+)"', page.text):
        assert "//" not in name
        assert client.get(f"/{name}").status_code == 200
    script = client.get("/page.js").text
    ids = set(re.findall(r'id="([\w-]+)"', page.text))
    assert set(re.findall(r'by\("([\w-]+)"\)', script)) <= ids
    assert "http://" not in script.replace("http://www.w3.org/2000/svg", "")


def test_about_says_what_there_is(client) -> None:
    about = client.get("/api/about").json()
    assert [(one["name"], one["encodes"]) for one in about["codecs"]] == [("dct", True), ("jpegai", False)]
    assert about["codecs"][0]["rates"] == [12, 25, 50, 75, 100]
    assert (about["largest"], about["examples"]) == (1_000_000, 2)
    assert client.get("/api/example/2").json() == {"error": "there are 2 examples"}


def test_photograph_gives_the_faces_of_its_latent(client) -> None:
    """Twice as wide as high: 320 x 160 in a picture of 320 x 320, of which only the photograph is shown."""
    drawn = np.array(Image.open(io.BytesIO(client.get("/api/example/0").content)))
    photograph = drawn[80:240]
    found = ask(client, "a photo.png", png(photograph)).json()
    assert (found["width"], found["height"], found["shape"]) == (320, 160, [256, 20, 20])
    shown = Image.open(io.BytesIO(base64.b64decode(found["picture"].partition(",")[2])))
    assert shown.size == (320, 160)
    assert np.abs(np.array(shown).astype(int) - photograph).mean() < 12  # decoded, at 0.5 bits per pixel
    padded = np.pad(photograph, ((0, 160), (0, 0), (0, 0)), constant_values=128)
    latent = DctCodec().encode_rates(padded, [50], 320 * 160)[0]
    faces = Detector.pretrained("dct")(latent.array, rate=50, confidence=0.05)
    assert [face["score"] for face in found["faces"]] == pytest.approx(faces.scores.tolist(), abs=1e-3)
    np.testing.assert_allclose([face["box"] for face in found["faces"]], faces.boxes, atol=0.1)
    assert found["bpp"] == pytest.approx(latent.bpp)
    assert found["bits"] == pytest.approx(latent.bpp * 320 * 160)
    assert set(found["milliseconds"]) == {"encode", "detect", "decode", "pixel_detect"}
    assert found["gmac"]["latent"] > found["gmac"]["pixels"] > 0


def test_latent_needs_no_codec(client) -> None:
    latent = np.zeros((1, 256, 6, 10), np.float32)
    found = ask(client, "latent_75.npy", npy(latent), codec="jpegai", rate=75).json()
    assert (found["width"], found["height"], found["seen_as"], found["bpp"]) == (160, 96, "preview", None)
    assert "decode" not in found["milliseconds"]


def test_strongest_channels_come_first() -> None:
    array = np.zeros((3, 2, 2), np.float32)
    array[2], array[0] = [[-4, 4], [4, -4]], [[1, -1], [1, -1]]
    assert [(one["channel"], one["deviation"]) for one in strongest_channels(array)] == [(2, 4.0), (0, 1.0), (1, 0.0)]


def test_ways_take_turns() -> None:
    order: list[str] = []
    seconds = alternated({"a": lambda: order.append("a"), "b": lambda: time.sleep(0.02)})
    assert order == ["a"] * 3
    assert seconds["b"] > 0.015 > seconds["a"]


BAD = [
    ("text.txt", b"hello", "text.txt: neither a photograph"),
    ("text.png", b"hello", "text.png: cannot be read as a picture"),
    ("nothing.jpg", b"", "nothing.jpg: empty"),
    ("bomb.npy", npy(np.array([{"a": 1}], dtype=object)), "bomb.npy: not a NumPy array of numbers"),
    ("flat.npy", npy(np.zeros(5)), "flat.npy: shape [5]"),
    ("other.npy", npy(np.zeros((64, 4, 4), np.float32)), "other.npy: shape [64, 4, 4]; this model takes [256, h, w]"),
    ("nan.npy", npy(np.full((256, 4, 4), np.nan, np.float32)), "nan.npy: NaN or infinite values"),
    ("many.npy", npy(np.zeros((1, 300, 300), np.int8)), "many.npy: 300 x 300 cells; at most 65536"),
    ("wide.png", png(np.zeros((1, 20_000, 3), np.uint8)), "wide.png: 20000 x 1 pixels; make it smaller"),
    ("large.png", bytes(1_000_001), "large.png: too large; files of at most 1 MB"),
]


@pytest.mark.parametrize(("name", "content", "message"), BAD, ids=[name for name, _, _ in BAD])
def test_bad_files_get_a_line_and_the_server_lives_on(client, name: str, content: bytes, message: str) -> None:
    reply = ask(client, name, content)
    assert reply.status_code in (400, 413)
    assert message in reply.json()["error"]
    assert "/tmp" not in reply.json()["error"]
    assert client.get("/api/about").status_code == 200


@pytest.mark.parametrize(
    ("codec", "rate", "message"),
    [
        ("vvc", 50, "no detector for latents of vvc"),
        ("dct", 51, "rate 51 is unknown"),
        ("dct", "x", "expected ?codec"),
        ("jpegai", 50, "jpegai cannot encode here"),
    ],
)
def test_bad_questions_get_a_line(client, codec: str, rate: object, message: str) -> None:
    reply = ask(client, "a.png", draw_example(1, 64), codec, rate)
    assert reply.status_code == 400
    assert message in reply.json()["error"]


def test_nothing_that_was_sent_stays(client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert ask(client, "a.png", draw_example(1, 64)).status_code == 200
    assert ask(client, "a.png", b"no picture").status_code == 400
    assert list(tmp_path.iterdir()) == []


def test_other_names_for_this_machine_are_refused(client) -> None:
    assert client.get("/", headers={"Host": "example.org"}).status_code == 400


def test_a_long_queue_is_refused(client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve, "LONGEST_QUEUE", 0)
    reply = ask(client, "a.png", draw_example(1, 64))
    assert (reply.status_code, reply.json()["error"]) == (503, "too many people are waiting: try again in a minute")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--port", "70000"], "--port 70000: 0 to 65535"),
        (["--size", "100"], "--size 100: a multiple of 32"),
        (["--megabytes", "0"], "--megabytes 0: 1 or more"),
    ],
)
def test_mistakes_get_one_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture) -> None:
    assert main(["serve", *arguments]) == 2
    assert message in capsys.readouterr().err


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """A server as a user starts it."""
    command = [sys.executable, "-m", "latentface.cli", "serve", "--port", "0", "--size", str(SIZE), "--megabytes", "2"]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as server:
        assert server.stdout is not None
        found = re.search(r"http://127\.0\.0\.1:\d+", server.stdout.readline())
        assert found
        yield found[0]
        server.terminate()


def test_a_taken_port_is_said_in_one_line(address: str, capsys: pytest.CaptureFixture) -> None:
    port = address.rpartition(":")[2]
    assert main(["serve", "--port", port, "--size", "64"]) == 2
    assert f"--port {port}: cannot listen there" in capsys.readouterr().err


def test_eight_people_at_once(address: str) -> None:
    import httpx

    pictures = [draw_example(seed, 64) for seed in range(8)]
    failed: list[object] = []

    def visit(number: int) -> None:
        for _ in range(3):
            headers = {"X-Name": f"{number}.png"}
            reply = httpx.post(
                f"{address}/api/look?codec=dct&rate=75", content=pictures[number], headers=headers, timeout=60
            )
            if reply.status_code != 200 or reply.json()["name"] != str(number):
                failed.append(reply.text)

    people = [threading.Thread(target=visit, args=(number,)) for number in range(8)]
    for person in people:
        person.start()
    for person in people:
        person.join()
    assert not failed


@pytest.fixture(scope="module")
def page(address: str):
    """The page in a browser, ready for a visitor."""
    playwright = pytest.importorskip("playwright.sync_api")
    if BROWSER is None:
        pytest.skip("needs a Chromium: apt-get install chromium")
    quiet = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
             "--disable-sync", "--no-first-run"]  # fmt: skip
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=BROWSER, args=quiet)
        page = browser.new_page()
        page.complaints = []
        page.on("pageerror", lambda error: page.complaints.append(str(error)))
        page.goto(address)
        page.wait_for_selector("body[data-ready=yes]")
        yield page
        browser.close()


def status(page, text: str) -> None:
    from playwright.sync_api import expect

    expect(page.locator("#status")).to_contain_text(text, timeout=60_000)


def test_faces_appear_and_the_sliders_move_them(page, tmp_path: Path) -> None:
    """Every step by keyboard. The boxes on the page are those of the saved file."""
    page.get_by_role("button", name="Drawn picture 1").focus()
    page.keyboard.press("Enter")
    status(page, "in drawn_1, confidence 0.50")
    with page.expect_download() as saved:
        page.get_by_role("button", name="Download JSON").click()
    faces = json.loads(saved.value.path().read_text())["faces"]
    drawn = page.locator("#boxes .face .box")
    assert drawn.count() == len(faces) > 0
    box = drawn.last  # the best is drawn last, over the others
    left, top = float(box.get_attribute("x")), float(box.get_attribute("y"))
    assert [left, top, left + float(box.get_attribute("width")), top + float(box.get_attribute("height"))] == (
        pytest.approx(faces[0]["box"], abs=0.01)
    )
    page.locator("#confidence").focus()
    page.keyboard.press("Home")
    status(page, "confidence 0.05")
    assert drawn.count() >= len(faces)
    page.keyboard.press("End")
    status(page, "confidence 0.99")
    assert drawn.count() == sum(face["score"] >= 0.99 for face in faces)
    page.locator("#confidence").fill("0.5")
    before = page.locator("#bits").inner_text()
    page.locator("#rate").focus()
    page.keyboard.press("Home")
    from playwright.sync_api import expect

    expect(page.locator("#picture-note")).to_contain_text("at rate 12")
    fewer = [float(text.split()[0]) for text in (page.locator("#bits").inner_text(), before)]
    assert fewer[0] < fewer[1]
    with page.expect_download() as saved:
        page.get_by_role("button", name="Download PNG").click()
    assert Image.open(saved.value.path()).size == (SIZE, SIZE)
    assert page.complaints == []


def test_a_latents_name_says_its_rate(page, tmp_path: Path) -> None:
    page.locator("#codec").select_option("jpegai")
    for rate in ("12", "100"):
        path = tmp_path / f"latent_{rate}.npy"
        np.save(path, np.zeros((256, 6, 10), np.float32))
        page.locator("#file").set_input_files(path)
        status(page, f"in latent_{rate}")
        assert page.locator("#rate-shown").inner_text() == rate
        assert "A preview of the latent" in page.locator("#picture-note").inner_text()
    page.locator("#codec").select_option("dct")
    assert page.complaints == []


@pytest.mark.parametrize(("name", "content", "message"), [bad for bad in BAD if bad[0] != "large.png"],
                         ids=[name for name, _, _ in BAD if name != "large.png"])  # fmt: skip
def test_bad_files_are_said_on_the_page(page, tmp_path: Path, name: str, content: bytes, message: str) -> None:
    from playwright.sync_api import expect

    (tmp_path / name).write_bytes(content)
    page.locator("#file").set_input_files(tmp_path / name)
    expect(page.locator("#error")).to_contain_text(message, timeout=60_000)
    assert page.complaints == []


def test_a_file_of_500_megabytes_is_not_even_sent(page, tmp_path: Path) -> None:
    from playwright.sync_api import expect

    with (tmp_path / "huge.png").open("wb") as file:
        file.truncate(500_000_000)
    page.locator("#file").set_input_files(tmp_path / "huge.png")
    expect(page.locator("#error")).to_contain_text("huge.png: 500 MB; files of at most 2 MB")
    page.get_by_role("button", name="Drawn picture 2").click()
    status(page, "in drawn_2")
    assert not page.locator("#error").is_visible()


def test_a_phone_needs_no_sideways_scrolling(page) -> None:
    page.set_viewport_size({"width": 360, "height": 740})
    page.get_by_role("button", name="Drawn picture 1").click()
    status(page, "in drawn_1")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    page.set_viewport_size({"width": 1280, "height": 900})
