"""The page at `/`: plain files, as they are in this folder, read once when the server starts.

The modules and the style sheet live under a path that holds a digest of them all, so that browsers keep them for ever
and still see a new version at once; the page itself is asked for again each time, and usually not sent again.
"""

import hashlib
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response

from tradewind.base.errors import NotFound

ASSETS_PATH = "/playground/"

_FOLDER = Path(__file__).parent
_PAGE = "index.html"
_PLACE_OF_DIGEST = b"{digest}"
_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
    )
)
_HEADERS = {
    "content-security-policy": _POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
}


class Playground:
    """The page and its assets, in memory."""

    def __init__(self) -> None:
        files = sorted(path for path in _FOLDER.iterdir() if path.suffix in _TYPES)
        self._assets = {path.name: path.read_bytes() for path in files}
        digest = hashlib.sha256()
        for name, content in self._assets.items():
            digest.update(name.encode() + b"\0" + content)
        self._digest = digest.hexdigest()[:16]
        self._page = (_FOLDER / _PAGE).read_bytes().replace(_PLACE_OF_DIGEST, self._digest.encode())
        self._tag = f'"{hashlib.sha256(self._page).hexdigest()[:16]}"'

    def page(self, request: Request) -> Response:
        """The page, or 304 for a browser that has it."""
        headers = {**_HEADERS, "cache-control": "no-cache", "vary": "accept", "etag": self._tag}
        if self._tag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        return Response(self._page, headers=headers, media_type="text/html; charset=utf-8")

    def asset(self, digest: str, name: str) -> Response:
        """One of the files. Raises NotFound, also for the digest of another version."""
        content = self._assets.get(name)
        if content is None or digest != self._digest:
            raise NotFound(f"no such file: {ASSETS_PATH}{digest[:64]}/{name[:64]}")
        headers = {**_HEADERS, "cache-control": "public, max-age=31536000, immutable"}
        return Response(content, headers=headers, media_type=_TYPES[Path(name).suffix])


def wants_page(request: Request) -> bool:
    """Whether a browser asks: programs do not name HTML among what they accept."""
    return "text/html" in request.headers.get("accept", "")
