"""A headless Chromium, driven over its DevTools protocol through two pipes: no driver, no further library.

Source: the Chrome DevTools Protocol, https://chromedevtools.github.io/devtools-protocol/; over a pipe each message is
JSON that a NUL ends; Chromium reads from descriptor 3 and writes to 4.
"""

import base64
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Self, TypeVar

T = TypeVar("T")
WAIT_SECONDS = 20.0
# Become Chromium, with the two pipes under the numbers that it expects.
_AS_3_AND_4 = (
    "import os, sys; os.dup2(int(sys.argv[1]), 3); os.dup2(int(sys.argv[2]), 4); os.execv(sys.argv[3], sys.argv[3:])"
)
KEYS = {
    "Tab": (9, ""),
    "Enter": (13, "\r"),
    "Escape": (27, ""),
    " ": (32, " "),
    "ArrowDown": (40, ""),
    "ArrowUp": (38, ""),
}


class BrowserError(AssertionError):
    """The browser refused, a script in the page raised, or what was waited for did not come."""


class Browser:
    """One Chromium with one page; a context manager.

    Args:
        executable: Chromium's path.
        folder: Holds its profile, and takes what is downloaded.
    """

    def __init__(self, executable: str, folder: Path) -> None:
        self._folder = folder
        self._context: str | None = None
        self.problems: list[str] = []
        self._number = 0
        self._rest = b""
        self._session: str | None = None
        to_read, self._write = os.pipe()
        self._read, to_write = os.pipe()
        words = [
            executable,
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--no-first-run",
            "--hide-scrollbars",
            "--disable-background-networking",
            "--disable-component-update",
            "--lang=en-GB",
            "--remote-debugging-pipe",
            f"--user-data-dir={folder / 'profile'}",
        ]
        given = [sys.executable, "-c", _AS_3_AND_4, str(to_read), str(to_write), *words]
        environment = {**os.environ, "HOME": str(folder), "TZ": "UTC"}
        self._process = subprocess.Popen(
            given,
            pass_fds=(to_read, to_write),
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        os.close(to_read)
        os.close(to_write)
        self.renew()

    def renew(self) -> None:
        """Forget everything (page, storage, downloads, problems) and begin with an empty page of 1100 by 800."""
        self._session = None
        if self._context is not None:
            self.call("Target.disposeBrowserContext", browserContextId=self._context)
        self._context = self.call("Target.createBrowserContext")["browserContextId"]
        self.downloads = self._folder / f"downloads-{self._context}"
        self.downloads.mkdir(parents=True)
        where, folder = self._context, str(self.downloads)
        self.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=folder, browserContextId=where)
        target = self.call("Target.createTarget", url="about:blank", browserContextId=where)["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        self.resize(1100, 800)
        self.problems.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        with suppress(BrowserError, OSError):
            self._session = None
            self.call("Browser.close")
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._read)
        os.close(self._write)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method of the protocol and return its result."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + WAIT_SECONDS
        while True:
            answer = self._receive(deadline, method)
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise BrowserError(f"{method}: {answer['error']['message']}")
                result: dict[str, Any] = answer["result"]
                return result

    def _receive(self, deadline: float, waiting_for: str) -> dict[str, Any]:
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._read], [], [], max(deadline - time.monotonic(), 0))
            piece = os.read(self._read, 1 << 20) if ready else b""
            if not piece:
                raise BrowserError(f"Chromium gave no answer to {waiting_for}.")
            self._rest += piece
        message, _, self._rest = self._rest.partition(b"\0")
        answer: dict[str, Any] = json.loads(message)
        self._note(answer)
        return answer

    def _note(self, message: dict[str, Any]) -> None:
        match message.get("method"):
            case "Runtime.exceptionThrown":
                details = message["params"]["exceptionDetails"]
                self.problems.append(details.get("exception", {}).get("description") or details["text"])
            case "Log.entryAdded":
                entry = message["params"]["entry"]
                if entry["level"] == "error":
                    self.problems.append(f"{entry['source']}: {entry['text']}")
            case "Runtime.consoleAPICalled" if message["params"]["type"] in ("error", "warning"):
                self.problems.append(str(message["params"]["args"]))

    def resize(self, width: int, height: int) -> None:
        """Give the page a size, in CSS pixels."""
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 500
        )

    def goto(self, url: str) -> None:
        """Open an address and wait until it is loaded."""
        answer = self.call("Page.navigate", url=url)
        if "errorText" in answer:
            raise BrowserError(f"{url}: {answer['errorText']}")
        # Until the new document is there, the old one answers, and it is complete. (A mere #fragment has no loader.)
        if loader := answer.get("loaderId"):
            self._poll(lambda: self._frames()["frame"]["loaderId"] == loader, f"the document of {url}")
        self.wait_for("document.readyState === 'complete'")

    def _frames(self) -> dict[str, Any]:
        tree: dict[str, Any] = self.call("Page.getFrameTree")["frameTree"]
        return tree

    def _poll(self, found: Callable[[], T], what: str) -> T:
        """Ask until there is an answer, and return it."""
        deadline = time.monotonic() + WAIT_SECONDS
        while not (answer := found()):
            if time.monotonic() > deadline:
                raise BrowserError(f"Waited in vain for {what}; the page says: {self.text()[:2000]}")
            time.sleep(0.02)
        return answer

    def wait_for_frame(self) -> str:
        """Wait until the page's one frame has an address of its own, and return that."""

        def address() -> str:
            frames = [frame["frame"]["url"] for frame in self._frames().get("childFrames", [])]
            return str(frames[0]) if len(frames) == 1 and frames[0] not in ("", "about:blank") else ""

        return self._poll(address, "the frame")

    def evaluate(self, script: str) -> Any:
        """Return the value of an expression of JavaScript in the page; a promise is awaited."""
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            details = answer["exceptionDetails"]
            raise BrowserError(f"{script}: {details.get('exception', {}).get('description') or details['text']}")
        return answer["result"].get("value")

    def wait_for(self, script: str) -> Any:
        """Wait until an expression of JavaScript is true, and return its value."""

        def value() -> Any:
            # The page may just be going: then the next one is asked.
            with suppress(BrowserError):
                return self.evaluate(script)

        return self._poll(value, script)

    def text(self, selector: str = "body") -> str:
        """Return the text of an element as a person sees it."""
        return str(self.evaluate(f"(document.querySelector({json.dumps(selector)}) || {{innerText: ''}}).innerText"))

    def click(self, selector: str) -> None:
        """Click on the middle of an element, with the mouse."""
        place = self.wait_for(
            f"(() => {{ const it = document.querySelector({json.dumps(selector)}); if (!it) return null;"
            " it.scrollIntoView({block: 'center'}); const box = it.getBoundingClientRect();"
            " return {x: box.x + box.width / 2, y: box.y + box.height / 2}; })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, button="left", clickCount=1, **place)

    def type(self, text: str) -> None:
        """Type a text into what has the focus."""
        self.call("Input.insertText", text=text)

    def press(self, key: str) -> None:
        """Press a key, of those in `KEYS`."""
        code, text = KEYS[key]
        given = {"key": key, "code": key, "windowsVirtualKeyCode": code}
        self.call("Input.dispatchKeyEvent", type="keyDown" if text else "rawKeyDown", text=text, **given)
        self.call("Input.dispatchKeyEvent", type="keyUp", **given)

    def screenshot(self, file: Path) -> None:
        """Write what is to be seen as PNG or WebP, as the file's name says."""
        kind = file.suffix.lstrip(".")
        quality = {"quality": 80} if kind == "webp" else {}
        picture = self.call("Page.captureScreenshot", format=kind, **quality)["data"]
        file.write_bytes(base64.b64decode(picture))

    def wait_for_tab(self, beginning: str) -> str:
        """Wait for a tab whose address begins so, and return the address."""
        deadline = time.monotonic() + WAIT_SECONDS
        while True:
            tabs = [tab["url"] for tab in self.call("Target.getTargets")["targetInfos"]]
            if found := [url for url in tabs if url.startswith(beginning)]:
                return str(found[0])
            if time.monotonic() > deadline:
                raise BrowserError(f"No tab begins with {beginning}: {tabs}")
            time.sleep(0.02)

    def wait_for_download(self, name: str) -> bytes:
        """Wait for a download, and return its bytes."""
        deadline = time.monotonic() + WAIT_SECONDS
        while not (self.downloads / name).exists():
            if time.monotonic() > deadline:
                raise BrowserError(f"{name} was not downloaded; there is {list(self.downloads.iterdir())}")
            time.sleep(0.02)
        return (self.downloads / name).read_bytes()
