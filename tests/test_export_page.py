"""The exported page in a real browser: real keys, a real mouse, the pictures that it really shows."""

import base64
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboard.util.tensor_util import make_tensor_proto
from torch.utils.tensorboard import SummaryWriter

from lightning_convviz.export import export
from lightning_convviz.render import PageLayout, encode, rgb

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
PROGRAM = next(filter(None, map(shutil.which, NAMES)), None)
pytestmark = [pytest.mark.slow, pytest.mark.skipif(PROGRAM is None, reason=f"needs one of {', '.join(NAMES)}")]

CODES = {"ArrowLeft": 37, "ArrowRight": 39, "Home": 36, "End": 35, " ": 32, "Escape": 27, "Enter": 13, "Tab": 9}
PWNED = "<img src=x onerror='window.pwned = 1'>"


# Chromium reads from 3 and writes to 4, whatever numbers the pipes have here.
AS_3_AND_4 = """
import fcntl, os, sys
for fd, place in [(fcntl.fcntl(int(fd), fcntl.F_DUPFD, 10), place) for fd, place in zip(sys.argv[1:3], (3, 4))]:
    os.dup2(fd, place)
os.execv(sys.argv[3], sys.argv[3:])
"""


class Browser:
    """Chromium, told what to do by its DevTools protocol over a pair of pipes."""

    def __init__(self, profile: Path) -> None:
        down, self._out = os.pipe()
        self._in, up = os.pipe()
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--window-size=1200,1000"]
        flags += ["--remote-debugging-pipe", f"--user-data-dir={profile}", "about:blank"]
        self._process = subprocess.Popen(
            [sys.executable, "-c", AS_3_AND_4, str(down), str(up), PROGRAM, *flags], pass_fds=(down, up),
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(down), os.close(up)
        self._count, self._session, self._rest, self.events = 0, None, b"", []
        target = self("Target.createTarget", url="about:blank")["targetId"]
        self._session = self("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self(f"{domain}.enable")

    def __call__(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._count += 1
        message = {"id": self._count, "method": method, "params": parameters}
        message |= {"sessionId": self._session} if self._session else {}
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while (answer := self._read()).get("id") != self._count:
            self.events.append(answer)
        assert "error" not in answer, answer
        return answer["result"]

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            more = os.read(self._in, 1 << 20)
            assert more, "the browser is gone"
            self._rest += more
        answer, _, self._rest = self._rest.partition(b"\0")
        return json.loads(answer)

    def open(self, page: Path, place: str = "") -> None:
        """Open the page anew, wide awake: loaded, and every visible picture decoded."""
        self.events.clear()
        self("Page.navigate", url="about:blank")
        self("Page.navigate", url=page.as_uri() + place)
        self.js(
            "new Promise(done => document.readyState === 'complete' ? done() : addEventListener('load', () => done()))"
        )
        self.settle()

    def js(self, code: str) -> Any:
        answer = self("Runtime.evaluate", expression=code, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def settle(self) -> None:
        self.js(
            "new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => done())))"
            ".then(() => Promise.all([...visible].map(card => card.frame.done)))"
            ".then(() => large.frame.done).then(() => 1)"
        )

    def press(self, *keys: str) -> None:
        for key in keys:
            text = {"Enter": "\r"}.get(key, key if len(key) == 1 else "")
            common = {"key": key, "code": f"Key{key}", "windowsVirtualKeyCode": CODES.get(key, 0)}
            self("Input.dispatchKeyEvent", type="keyDown", **common, **({"text": text} if text else {}))
            self("Input.dispatchKeyEvent", type="keyUp", **common)
        self.settle()

    def mouse(self, x: float, y: float, *kinds: str) -> None:
        for kind in ("mouseMoved", *kinds):
            button = {} if kind == "mouseMoved" else {"button": "left", "clickCount": 1}
            self("Input.dispatchMouseEvent", type=kind, x=x, y=y, **button)
        self.settle()

    def complaints(self) -> list[Any]:
        bad = ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded")
        return [event["params"] for event in self.events if event["method"] in bad]

    def close(self) -> None:
        self._session = None
        self("Browser.close")
        self._process.wait(20)
        os.close(self._in), os.close(self._out)


@pytest.fixture(scope="module")
def browser(tmp_path_factory) -> Iterator[Browser]:
    browser = Browser(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


def plain(shade: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (10, 6), (shade, 0, 80)).save(buffer, "PNG")
    return buffer.getvalue()


def grid(epoch: int, step: int) -> bytes:
    """A picture of ours: two probes by three channels."""
    sheet = PageLayout(200)
    sheet.write(f"epoch {epoch}")
    tiles = rgb(torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(epoch)))
    block = sheet.tiles(tiles, columns=3, zoom=5)
    items = [{"id": probe, "true": f"class {probe}", "p_true": 0.5, "right": True} for probe in (4, 9)]
    about = {"kind": "activations", "layer": "net", "epoch": epoch, "step": step, "rows": [4, 9], "columns": [0, 5, 7]}
    return encode(sheet.picture(main=block, colormap=None, legend="", about={**about, "items": items})).data


def add(writer: SummaryWriter, tag: str, step: int, data: bytes, legend: str = "") -> None:
    value = Summary.Value(tag=tag, image=Summary.Image(height=6, width=10, colorspace=3, encoded_image_string=data))
    value.metadata.CopyFrom(SummaryMetadata(summary_description=legend))
    writer._get_file_writer().add_summary(Summary(value=[value]), step)


STEPS = {0: 0, 100: 0, 200: 1, 300: 2}


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    with SummaryWriter(str(folder / "logs" / "first")) as writer:
        for step, epoch in STEPS.items():
            add(writer, "net/grid", step, grid(epoch, step), "**Grid**: <i>read</i> `so`.")
            add(writer, "evolution/net", step, plain(step // 2))
        for step in (100, 250):
            add(writer, "own", step, plain(step))
        add(writer, f"net/{PWNED}", 200, plain(9), PWNED)
        writer.add_text("convviz/diagnostics/net", "**conv1: dying** since epoch 1.", 200)
        for step in (100, 200, 300):
            writer.add_scalar("convviz/net/dead/conv1", step / 400, step)
    with SummaryWriter(str(folder / "logs" / "second")) as writer:
        add(writer, "own", 7, plain(7))
        value = Summary.Value(tag="convviz/net", tensor=make_tensor_proto(json.dumps({"epoch": 5, "step": 7})))
        plugin = SummaryMetadata.PluginData(plugin_name="convviz")
        value.metadata.CopyFrom(SummaryMetadata(plugin_data=plugin))
        writer._get_file_writer().add_summary(Summary(value=[value]), 7)
    return export(folder / "logs", folder / "out", html=True).page


CARD = "[...cards.values()].find(card => card.entry.tag === {!r})"


def seen(browser: Browser, tag: str) -> bytes | None:
    """The bytes of the picture that a tag's card shows."""
    uri = browser.js(f"{CARD.format(tag)}.frame.querySelector('img')?.src ?? ''")
    return base64.b64decode(uri.partition(",")[2]) or None


def when(browser: Browser, tag: str) -> str:
    return browser.js(f"{CARD.format(tag)}.when.textContent")


def moment(browser: Browser) -> str:
    return browser.js("document.getElementById('moment').firstChild.textContent")


def center(browser: Browser, element: str) -> list[float]:
    return browser.js(f"(box => [box.x + box.width / 2, box.y + box.height / 2])({element}.getBoundingClientRect())")


def test_it_opens_from_disk_at_the_last_moment_and_loads_nothing(browser, page):
    browser.open(page)
    assert browser.complaints() == []
    assert browser.js("performance.getEntriesByType('resource').filter(e => !e.name.startsWith('data:')).length") == 0
    assert browser.js("document.title") == "first"
    assert moment(browser) == "epoch 2 · step 300"
    assert seen(browser, "net/grid") == grid(2, 300)
    assert not browser.js("'pwned' in window")
    assert browser.js(f"{CARD.format(f'net/{PWNED}')}.querySelector('h3').textContent") == PWNED
    assert browser.js(f"{CARD.format('net/grid')}.querySelector('details div').innerHTML") == (
        "<p><strong>Grid</strong>: &lt;i&gt;read&lt;/i&gt; <code>so</code>.</p>"
    )
    assert browser.js("[...document.querySelectorAll('.group > h2')].map(each => each.firstChild.textContent)") == [
        "evolution", "net", "pictures",
    ]  # fmt: skip


def test_keys_move_all_tags_together(browser, page):
    browser.open(page)
    story = []
    browser.press("Home")
    for _ in range(6):
        story.append((moment(browser), seen(browser, "net/grid"), seen(browser, "evolution/net")))
        browser.press("ArrowRight")
    expected = {
        "initial · step 0": 0, "epoch 0 · step 100": 100, "epoch 1 · step 200": 200, "step 250": 200,
        "epoch 2 · step 300": 300,
    }  # fmt: skip
    told = [(word, grid(STEPS[step], step), plain(step // 2)) for word, step in expected.items()]
    assert story == [*told, told[-1]]
    browser.press("ArrowLeft", "ArrowLeft")
    assert moment(browser) == "epoch 1 · step 200"
    browser.press("End")
    assert moment(browser) == "epoch 2 · step 300"


def test_the_slider_itself_moves_by_one_for_each_key(browser, page):
    browser.open(page, "#step=0")
    browser.js("document.getElementById('slider').focus()")
    browser.press("ArrowRight")
    assert moment(browser) == "epoch 0 · step 100"
    assert browser.js("document.getElementById('slider').getAttribute('aria-valuetext')") == moment(browser)
    browser.press("End")
    assert moment(browser) == "epoch 2 · step 300"


def test_an_earlier_picture_is_dimmed_and_says_when_it_is_from(browser, page):
    browser.open(page, "#step=200")
    opacity = f"getComputedStyle({CARD.format('own')}.frame.querySelector('img')).opacity"
    assert seen(browser, "own") == plain(100)
    assert when(browser, "own") == "still from epoch 0 · step 100"
    browser.js("new Promise(done => setTimeout(done, 200))")  # the dimming takes a moment
    assert float(browser.js(opacity)) < 0.5
    assert when(browser, "net/grid") == "epoch 1 · step 200"
    browser.press("ArrowRight")
    browser.js("new Promise(done => setTimeout(done, 200))")
    assert (seen(browser, "own"), when(browser, "own"), float(browser.js(opacity))) == (plain(250), "step 250", 1)
    browser.press("Home")
    assert seen(browser, "own") is None
    assert browser.js(f"{CARD.format('own')}.frame.textContent") == "First picture: epoch 0 · step 100"


def test_nothing_flickers(browser, page):
    browser.open(page, "#step=0")
    browser.js(  # a frame is never without a picture, and none comes into it before it is decoded
        f"""
        window.early = 0;
        const native = HTMLImageElement.prototype.decode;
        const awake = new Set([...decoded.values()].map(each => each.image));
        HTMLImageElement.prototype.decode = function () {{ return native.call(this).then(() => awake.add(this)); }};
        window.look = new MutationObserver(() => {{
          if (!awake.has({CARD.format("net/grid")}.frame.querySelector("img"))) early++;
        }});
        look.observe({CARD.format("net/grid")}.frame, {{childList: true}});
        """
    )
    browser.press("End", *["ArrowLeft"] * 4)
    assert browser.js("look.disconnect(); early") == 0
    assert seen(browser, "net/grid") == grid(0, 0)


def test_a_picture_that_is_decoded_late_does_not_take_the_place_of_the_one_that_is_wanted(browser, page):
    browser.open(page, "#step=0")
    browser.js("goTo(4); goTo(0); Promise.all([...decoded.values()].map(each => each.ready)).then(() => 1)")
    browser.settle()
    assert seen(browser, "net/grid") == grid(0, 0)


def test_space_plays_to_the_end_and_pauses(browser, page):
    browser.open(page, "#step=0")
    browser.press(" ")
    assert browser.js("document.getElementById('play').getAttribute('aria-pressed')") == "true"
    browser.js("new Promise(done => (function wait() { state.at ? done() : setTimeout(wait, 20); })())")
    browser.press(" ")
    at = browser.js("state.at")
    browser.js("new Promise(done => setTimeout(done, 900))")
    assert (browser.js("state.at"), browser.js("state.playing")) == (at, False)


def test_a_tag_is_chosen_and_enlarged_by_keys_at_whole_numbers_of_device_pixels(browser, page):
    browser("Emulation.setDeviceMetricsOverride", width=1200, height=1000, deviceScaleFactor=2, mobile=False)
    try:
        browser.open(page, "#step=100")
        browser.press("j")
        assert browser.js("state.tag") == "evolution/net"
        browser.press("j", "k", "j", "Enter")
        assert browser.js("document.getElementById('large').open")
        assert browser.js("document.getElementById('large-title').textContent") == "net/grid"
        image = "large.frame.querySelector('img')"
        width = Image.open(io.BytesIO(grid(0, 100))).width
        times = browser.js(f"{image}.getBoundingClientRect().width") * 2 / width
        assert times == int(times) > 1
        assert browser.js(f"getComputedStyle({image}).imageRendering") == "pixelated"
        browser.press("-", "ArrowRight")
        assert browser.js(f"{image}.getBoundingClientRect().width") * 2 / width == times - 1
        assert base64.b64decode(browser.js(f"{image}.src").partition(",")[2]) == grid(1, 200)
        browser.press("Escape")
        assert not browser.js("document.getElementById('large').open")
        assert browser.js(f"document.activeElement === {CARD.format('net/grid')}.frame")
    finally:
        browser("Emulation.clearDeviceMetricsOverride")


def test_a_click_enlarges_and_small_pictures_alone_are_pixelated(browser, page):
    browser.open(page)
    assert (
        browser.js(f"getComputedStyle({CARD.format('own')}.frame.querySelector('img')).imageRendering") == "pixelated"
    )
    assert (
        browser.js(f"getComputedStyle({CARD.format('net/grid')}.frame.querySelector('img')).imageRendering") == "auto"
    )
    browser.mouse(*center(browser, f"{CARD.format('net/grid')}.frame"), "mousePressed", "mouseReleased")
    assert browser.js("document.getElementById('large').open")
    browser.press("ArrowLeft", "Escape")
    assert moment(browser) == "step 250"


def test_the_filter_leaves_what_it_says_and_keeps_the_keys_to_itself(browser, page):
    browser.open(page)
    browser.press("/", *"grid j")
    browser.press("ArrowLeft")
    assert browser.js("document.getElementById('filter').value") == "grid j"
    assert browser.js("[...cards].filter(([, card]) => !card.hidden).length") == 0
    assert "No tag has" in browser.js("document.getElementById('nothing').textContent")
    assert moment(browser) == "epoch 2 · step 300"
    browser.press("Escape", "/", *"grid", "Enter")
    assert browser.js("[...cards].filter(([, card]) => !card.hidden).map(([tag]) => tag)") == ["net/grid"]
    assert browser.js("[...document.querySelectorAll('.group')].filter(each => !each.hidden).length") == 1
    browser.press("j", "j")
    assert browser.js("state.tag") == "net/grid"


def test_the_address_keeps_the_moment_the_tag_and_the_run(browser, page):
    browser.open(page)
    browser.press("ArrowLeft", "ArrowLeft", "j", "j")
    place = browser.js("location.hash")
    assert place == "#run=first&epoch=1&tag=net/grid"
    browser.open(page, place)
    assert (moment(browser), browser.js("state.tag")) == ("epoch 1 · step 200", "net/grid")
    browser.open(page, "#epoch=0")
    assert moment(browser) == "epoch 0 · step 100"
    browser.open(page, "#run=second&epoch=99&tag=gone")
    assert (moment(browser), seen(browser, "own")) == ("epoch 5 · step 7", plain(7))
    browser.js("location.hash = '#run=first&step=260'")
    browser.settle()
    assert (moment(browser), seen(browser, "own")) == ("step 250", plain(250))
    assert browser.js("document.getElementById('run').value") == "first"
    assert browser.complaints() == []


def test_another_run_is_chosen_by_its_name(browser, page):
    browser.open(page)
    browser.js(
        "(run => { run.value = 'second'; run.dispatchEvent(new Event('change')); })(document.getElementById('run'))"
    )
    browser.settle()
    assert (browser.js("document.title"), seen(browser, "own")) == ("second", plain(7))
    assert browser.js("document.getElementById('play').disabled")


def test_the_tile_under_the_mouse_says_what_it_is(browser, page):
    browser.open(page)
    geometry = json.loads(Image.open(io.BytesIO(grid(2, 300))).info["convviz"])["tiles"]
    left, top = browser.js(
        f"(box => [box.x, box.y])({CARD.format('net/grid')}.frame.querySelector('img').getBoundingClientRect())"
    )
    x, y = left + geometry["x"] + 2 * geometry["dx"], top + geometry["y"] + geometry["dy"]
    tip = "document.getElementById('tip')"
    browser.mouse(x + 3, y + 3)
    assert browser.js(f"{tip}.querySelector('b').textContent") == "channel 7 · probe 9"
    assert browser.js(f"[...{tip}.querySelectorAll('dt, dd')].map(each => each.textContent)") == [
        "true", "class 9", "p of true", "50 %", "right", "yes",
    ]  # fmt: skip
    spot = browser.js("(box => [box.x, box.y, box.width])(document.querySelector('.spot').getBoundingClientRect())")
    assert spot == pytest.approx([x, y, geometry["w"]])
    browser.mouse(x + geometry["w"] + 5, y - geometry["dy"] + 3)  # beside the last column
    assert browser.js(f"{tip}.hidden")


def test_alarms_and_figures_follow_the_slider(browser, page):
    browser.open(page, "#step=100")
    coming = "document.querySelector('#alarms li').classList.contains('coming')"
    value = "document.querySelector('.chart .key b').textContent"
    assert browser.js("document.querySelector('#alarms strong').textContent") == "conv1: dying"
    assert (browser.js(coming), browser.js(value)) == (True, "0.25")
    browser.mouse(*center(browser, "document.querySelector('#alarms button')"), "mousePressed", "mouseReleased")
    assert (moment(browser), browser.js(coming), browser.js(value)) == ("epoch 1 · step 200", False, "0.5")


def test_help_opens_by_its_key_and_colors_follow_the_system(browser, page):
    browser.open(page)
    browser.press("?")
    assert browser.js("document.getElementById('help').open")
    browser.press("ArrowLeft", "Escape")
    assert not browser.js("document.getElementById('help').open")
    assert moment(browser) == "epoch 2 · step 300"
    colors = []
    for scheme in ("dark", "light"):
        browser("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        colors.append(browser.js("getComputedStyle(document.body).backgroundColor"))
    assert colors == ["rgb(20, 23, 27)", "rgb(244, 245, 247)"]


def test_every_control_has_a_name(browser, page):
    browser.open(page)
    browser("Accessibility.enable")
    nodes = browser("Accessibility.getFullAXTree")["nodes"]
    roles = {"button", "slider", "searchbox", "combobox", "img", "link", "DisclosureTriangle"}
    controls = [node for node in nodes if node.get("role", {}).get("value") in roles]
    assert {"button", "slider", "searchbox", "combobox"} <= {node["role"]["value"] for node in controls}
    assert [node for node in controls if not node.get("name", {}).get("value")] == []
