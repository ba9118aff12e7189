"""`latentface serve`: a page in the browser that shows what a codec's latent holds and the faces found in it.

Nothing is loaded from the internet, nothing that is sent is kept, and only this machine may ask unless `--host` says
otherwise. The work is done in `look.py`; here are the addresses:

    GET  /                       the page and its files
    GET  /api/about              codecs, rates, limits
    GET  /api/example/<number>   a picture drawn by this program
    POST /api/look?codec&rate    a file, its name in the header X-Name -> JSON: faces and everything shown
"""

from __future__ import annotations

import io
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from latentface.errors import LatentFaceError
from latentface.options import option

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

    from latentface.apps.look import Looker

PAGE = Path(__file__).with_name("page")
EXAMPLES = (3, 8)  # seeds of the drawn pictures
LONGEST_QUEUE = 32  # of files that wait to be looked at
LOCAL_NAMES = ["127.0.0.1", "localhost", "[::1]"]
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data: blob:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


@dataclass
class ServeConfig:
    """A page in the browser: drop a photograph or a latent, see the faces that its latent holds."""

    host: str = option("127.0.0.1", "address to listen at; 0.0.0.0 lets other machines in")
    port: int = option(8000, "port to listen at; 0: any free one")
    weight: str = option("", "checkpoint or exported model, for latents of the codec it was trained on; empty: "
                             "the detectors that come along")  # fmt: skip
    codec_weights: str = option("", "folder of JPEG AI's networks, to encode and decode by jpegai too")
    size: int = option(640, "side of the square that photographs are brought to")
    megabytes: int = option(30, "largest file that is taken")

    def __post_init__(self) -> None:
        if not 0 <= self.port < 65536:
            raise LatentFaceError(f"--port {self.port}: 0 to 65535")
        if not 64 <= self.size <= 2048 or self.size % 32:
            raise LatentFaceError(f"--size {self.size}: a multiple of 32 from 64 to 2048")
        if self.megabytes < 1:
            raise LatentFaceError(f"--megabytes {self.megabytes}: 1 or more")

    @property
    def local(self) -> bool:
        """Whether only this machine can reach it."""
        return self.host in ("127.0.0.1", "localhost", "::1")


def run(config: ServeConfig) -> None:
    """Serves until Ctrl-C."""
    try:
        import starlette  # noqa: F401
        import uvicorn
    except ImportError as error:
        raise LatentFaceError(f"serve needs {error.name}: pip install 'latentface[serve]'") from error
    application = build(config)
    server = uvicorn.Server(
        uvicorn.Config(application, host=config.host, port=config.port, log_level="warning", server_header=False)
    )
    try:
        socket = server.config.bind_socket()
    except SystemExit as error:  # what uvicorn does where the address is taken
        raise LatentFaceError(f"--host {config.host} --port {config.port}: cannot listen there; give another --port") \
            from error  # fmt: skip
    host, port = socket.getsockname()[:2]
    print(f"open http://{host}:{port} in a browser; Ctrl-C ends it", flush=True)
    if not config.local:
        print("other machines may open it too: there is no password", file=sys.stderr)
    server.run(sockets=[socket])


def build(config: ServeConfig) -> Starlette:
    """The web application. Everything slow is loaded and run once before the first visitor comes."""
    from starlette.applications import Starlette
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware
    from starlette.routing import Mount, Route
    from starlette.staticfiles import StaticFiles

    looker = open_looker(config)
    examples = [draw_example(seed, config.size) for seed in EXAMPLES]
    for name in looker.codecs:  # warm: the first look would take several times as long
        looker.look("warm.png", examples[0], name, looker.detectors[name].rates[0])
    pages = Pages(looker, examples, 1_000_000 * config.megabytes)
    return Starlette(
        routes=[
            Route("/api/about", pages.about),
            Route("/api/example/{number:int}", pages.example),
            Route("/api/look", pages.look, methods=["POST"]),
            Mount("/", StaticFiles(directory=PAGE, html=True)),
        ],
        middleware=[
            # another site's name that points here must not reach it through the visitor's browser
            Middleware(TrustedHostMiddleware, allowed_hosts=LOCAL_NAMES if config.local else ["*"]),
            Middleware(_SafeHeaders),
        ],
    )


def open_looker(config: ServeConfig) -> Looker:
    """Detectors and codecs as the settings say."""
    from latentface.apps.look import Looker
    from latentface.codecs import open_codec
    from latentface.data.pretrained import pretrained
    from latentface.inference.detector import Detector

    if config.weight:
        detector = Detector.load(config.weight)
        detectors = {detector.codec: detector}
    else:
        detectors = {name: Detector.load(pretrained(name)) for name in ("dct", "jpegai")}
    codecs = {}
    if "dct" in detectors:
        codecs["dct"] = open_codec("dct")
    if "jpegai" in detectors and config.codec_weights:
        codecs["jpegai"] = open_codec("jpegai", config.codec_weights)
    return Looker(detectors, codecs, config.size)


def draw_example(seed: int, size: int) -> bytes:
    """A picture with faces, drawn; PNG."""
    import numpy as np
    from PIL import Image

    from latentface.apps.drawing import draw_picture

    file = io.BytesIO()
    Image.fromarray(draw_picture(np.random.default_rng(seed), size, size, faces=5).rgb).save(file, format="PNG")
    return file.getvalue()


class Pages:
    """What each address answers."""

    def __init__(self, looker: Looker, examples: list[bytes], largest: int) -> None:
        import anyio

        self.looker, self.examples, self.largest = looker, examples, largest
        self.one_at_a_time = anyio.CapacityLimiter(1)  # a look uses all cores
        self.waiting = 0

    async def about(self, request: Request) -> Response:
        """Everything the page has to know before the first file."""
        from starlette.responses import JSONResponse

        codecs = [
            {"name": name, "rates": list(detector.rates), "encodes": name in self.looker.codecs}
            for name, detector in self.looker.detectors.items()
        ]
        return JSONResponse({"codecs": codecs, "largest": self.largest, "examples": len(self.examples)})

    async def example(self, request: Request) -> Response:
        """A drawn picture, PNG."""
        from starlette.responses import Response

        number = request.path_params["number"]
        if number >= len(self.examples):
            return _refused(404, f"there are {len(self.examples)} examples")
        return Response(self.examples[number], media_type="image/png")

    async def look(self, request: Request) -> Response:
        """Faces of the file that is sent."""
        import anyio
        from starlette.responses import JSONResponse

        codec, rate = request.query_params.get("codec", ""), request.query_params.get("rate", "")
        name = Path(unquote(request.headers.get("x-name", ""))).name
        if not name or not rate.isdecimal() or len(rate) > 4:
            return _refused(400, "expected ?codec=NAME&rate=NUMBER and the file's name in the header X-Name")
        if self.waiting >= LONGEST_QUEUE:
            return _refused(503, "too many people are waiting: try again in a minute")
        self.waiting += 1
        try:
            content = await self._content(request)
            if content is None:
                return _refused(
                    413, f"{name}: too large; files of at most {self.largest // 1_000_000} MB are taken here"
                )
            if not content:
                return _refused(400, f"{name}: empty")
            result = await anyio.to_thread.run_sync(
                self.looker.look, name, content, codec, int(rate), limiter=self.one_at_a_time
            )
            return JSONResponse(result)
        except LatentFaceError as error:
            return _refused(400, str(error))
        finally:
            self.waiting -= 1

    async def _content(self, request: Request) -> bytes | None:
        """The body, or None as soon as it is larger than allowed: no more than that is ever held."""
        if int(request.headers.get("content-length") or 0) > self.largest:
            return None
        content = bytearray()
        async for part in request.stream():
            content += part
            if len(content) > self.largest:
                return None
        return bytes(content)


def _refused(status: int, message: str) -> Response:
    from starlette.responses import JSONResponse

    return JSONResponse({"error": message}, status)


class _SafeHeaders:
    """Adds `HEADERS` to every answer."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def answer(message: Any) -> None:
            if message["type"] == "http.response.start":
                added = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]
                message = {**message, "headers": [*message["headers"], *added]}
            await send(message)

        await self.app(scope, receive, answer)
