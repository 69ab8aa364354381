"""A real Chromium, driven as a person drives it: by clicks and by keys."""

from __future__ import annotations

import shutil
import tempfile
from importlib import resources
from pathlib import Path
from typing import Any, Final, Self

from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

WAIT_S: Final = 60.0  # What a starved machine may need; costs time only where something is wrong.
TABS_MAX: Final = 200
DESKTOP: Final = (1280, 900)
PHONE: Final = (375, 800)


def missing_browser() -> str | None:
    """What this machine lacks to drive a browser, None where nothing is missing."""
    missing = [name for name in ("chromium", "chromedriver") if shutil.which(name) is None]
    return f"no {' and no '.join(missing)} found (Debian: chromium, chromium-driver)" if missing else None


class Browser:
    """One browser window. Pages are read from it; ``complaints`` takes what its log holds since the last time."""

    def __init__(self) -> None:
        self._home = tempfile.TemporaryDirectory(prefix="browser-", ignore_cleanup_errors=True)
        options = webdriver.ChromeOptions()
        options.binary_location = shutil.which("chromium") or "chromium"
        for argument in (
            "--headless=new",
            "--no-sandbox",  # Root has none; what is opened here is ours.
            "--disable-dev-shm-usage",
            "--disable-gpu",
            "--hide-scrollbars",
            "--lang=en",
            f"--user-data-dir={self._home.name}",
        ):
            options.add_argument(argument)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        self._driver = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
        self.resize(DESKTOP)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._driver.quit()
        self._home.cleanup()

    def resize(self, size: tuple[int, int]) -> None:
        """Give the page so many pixels: a window cannot be as narrow as a telephone, a device can."""
        width, height = size
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        self._driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)

    def open(self, url: str) -> None:
        self._driver.get(url)

    @property
    def path(self) -> str:
        """The address of the page without the server's."""
        return "/" + self._driver.current_url.split("/", 3)[3]

    @property
    def text(self) -> str:
        """What a person sees of the page."""
        return self._driver.find_element(By.TAG_NAME, "body").text

    def find(self, css: str) -> WebElement:
        return self._driver.find_element(By.CSS_SELECTOR, css)

    def click(self, css: str) -> None:
        """Click, and wait until another page is there."""
        self._leads_on(self.find(css).click)

    def tab_to(self, css: str) -> None:
        """Press the tabulator until what was meant has the focus, as somebody without a mouse does."""
        wanted = self.find(css)
        for _ in range(TABS_MAX):
            self.press(Keys.TAB)
            if self._driver.switch_to.active_element == wanted:
                return
        raise AssertionError(f"no key leads to {css}")

    def press(self, keys: str) -> None:
        self._driver.switch_to.active_element.send_keys(keys)

    def enter(self) -> None:
        """Press Enter, and wait until another page is there."""
        self._leads_on(lambda: self.press(Keys.ENTER))

    def _leads_on(self, act: Any) -> None:
        before = self.find("html")
        act()
        WebDriverWait(self._driver, WAIT_S).until(lambda _: self.find("html") != before and self._loaded())

    def _loaded(self) -> bool:
        return bool(self.run("return document.readyState") == "complete")

    def run(self, script: str, *arguments: Any) -> Any:
        """Run a script of the test's own in the page; the page's policy does not hold for it."""
        return self._driver.execute_script(script, *arguments)

    def overflow(self) -> int:
        """By how many pixels the page is wider than the screen."""
        root = "document.documentElement"
        return int(self.run(f"return {root}.scrollWidth - {root}.clientWidth"))

    def complaints(self) -> list[str]:
        """What the browser logged: violations of the page's policy, errors, pictures that are not there."""
        return [entry["message"] for entry in self._driver.get_log("browser")]

    def barriers(self) -> list[str]:
        """What axe-core says keeps people with disabilities from using the page."""
        self.run((resources.files("axe_core_python") / "axe.min.js").read_text(encoding="utf-8"))
        found = self._driver.execute_async_script("axe.run().then(arguments[arguments.length - 1])")
        return [
            f"{barrier['id']}: {node['html'][:200]}" for barrier in found["violations"] for node in barrier["nodes"]
        ]

    def picture(self, path: Path, *, height: int | None = None) -> None:
        """Write a picture of the page, as far down as its height (or ``height``) goes."""
        full = int(self.run("return document.documentElement.scrollHeight"))
        width = int(self.run("return document.documentElement.clientWidth"))
        self.resize((width, min(full, height or full)))
        self._driver.save_screenshot(str(path))
