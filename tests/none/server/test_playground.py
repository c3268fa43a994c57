"""How the playground's files are served. What they do is tested in a browser (tests/http/test_page.py)."""

import re

from http_fakes import Caller

BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"


async def test_browsers_get_the_page_and_programs_what_they_got_before() -> None:
    caller = Caller()
    page = await caller.get("/", accept=BROWSER)
    assert (page.status, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert page.body.startswith(b"<!doctype html>")
    for accept in ("*/*", "application/json", ""):
        assert (await caller.get("/", accept=accept)).json()["name"] == "tradewind"


async def test_the_page_is_asked_for_each_time_and_sent_once() -> None:
    caller = Caller()
    page = await caller.get("/", accept=BROWSER)
    assert (page.headers["cache-control"], page.headers["vary"]) == ("no-cache", "accept")
    again = await caller.get("/", accept=BROWSER, if_none_match=page.headers["etag"])
    assert (again.status, again.body) == (304, b"")


async def test_every_file_is_there_for_ever_with_its_type_and_without_a_key() -> None:
    caller = Caller(api_key="sesame")
    page = (await caller.get("/", accept=BROWSER)).body.decode()
    pending = re.findall(r'(?:src|href)="(/playground/[^"]+)"', page)
    folder = pending[0].rsplit("/", 1)[0]
    seen = {}
    while pending:
        path = pending.pop()
        answer = await caller.get(path)
        assert answer.status == 200, path
        assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"
        assert answer.headers["x-content-type-options"] == "nosniff"
        seen[path] = answer.headers["content-type"]
        found = [f"{folder}/{name}" for name in re.findall(r'from "\./([^"]+)"', answer.body.decode())]
        pending += [name for name in found if name not in seen]
    types = {path.rsplit(".", 1)[1]: kind for path, kind in seen.items()}
    assert types == {
        "css": "text/css; charset=utf-8",
        "js": "text/javascript; charset=utf-8",
        "svg": "image/svg+xml",
    }


async def test_nothing_from_elsewhere_is_loaded_or_run() -> None:
    caller = Caller()
    page = await caller.get("/", accept=BROWSER)
    policy = dict(part.split(" ", 1) for part in page.headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert {policy[name] for name in ("script-src", "style-src", "img-src", "connect-src")} == {"'self'"}
    assert policy["frame-ancestors"] == "'none'"
    text = page.body.decode()
    assert not re.search(r"<script(?![^>]* src=)|<style| style=| on[a-z]+=|https?://", text)


async def test_other_files_are_not_served() -> None:
    caller = Caller()
    page = (await caller.get("/", accept=BROWSER)).body.decode()
    folder = re.findall(r'"(/playground/[^"/]+)/', page)[0]
    for path in (
        f"{folder}/__init__.py",
        f"{folder}/index.html",
        f"{folder}/..",
        "/playground/0/app.js",
        "/playground/",
    ):
        assert (await caller.get(path)).status == 404, path
