"""Look at the built site in headless Chromium, on a desk and on a phone.

Every page is opened: no error in the console, nothing asked of another host, all images and formulas drawn, nothing
wider than the screen, letters large enough. And the search finds a class. Where there is no Chromium (Debian's packages
are ``chromium`` and ``chromium-driver``) this says so and ends well.

python .ci/check_site_in_browser.py docs/_build/html
"""

from __future__ import annotations

import functools
import http.server
import json
import shutil
import sys
import tempfile
import threading
from pathlib import Path
from urllib.parse import urlsplit

from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.support.ui import WebDriverWait

SCREENS = {"desk": (1280, 900), "phone": (390, 844)}
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
SOUGHT = ("InstanceBank", "reference/banks.html")

# What a reader would stumble over, as sentences. Elements that scroll by themselves may be wider than the screen.
LOOK = """
const found = [];
// On a phone the theme lets the whole article scroll, as bad as the whole page scrolling.
for (const box of [document.documentElement, ...document.querySelectorAll(".content")])
  if (box.scrollWidth > Math.min(arguments[0], box.clientWidth) + 1)
    found.push(`needs ${box.scrollWidth} pixels where ${box.tagName} has ${box.clientWidth}`);
if (!document.querySelector("h1, h2")) found.push("has no heading");
for (const image of document.querySelectorAll("article img")) {
  image.loading = "eager";
  if (image.complete && !image.naturalWidth) found.push(`cannot show ${image.getAttribute("src")}`);
}
for (const formula of document.querySelectorAll("article math")) {
  if (!formula.getBoundingClientRect().width) found.push(`cannot draw ${formula.textContent}`);
  if (formula.querySelector("merror")) found.push(`has an error in ${formula.textContent}`);
}
for (const text of document.querySelectorAll("article p, article li, article td")) {
  const size = parseFloat(getComputedStyle(text).fontSize);
  if (size < 11.5) { found.push(`has letters of ${size} pixels: ${text.textContent.slice(0, 40)}`); break; }
}
return found;
"""


class QuietServer(http.server.SimpleHTTPRequestHandler):
    """Serves the site without a line for each file."""

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


def open_browser(chromium: str, driver: str, profile: str) -> webdriver.Chrome:
    """A browser that keeps what its console says and what it asks the network for."""
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (*FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    return webdriver.Chrome(options=options, service=Service(driver))


def logged_problems(browser: webdriver.Chrome, host: str) -> list[str]:
    """Errors in the console, and requests that leave this machine, since the last call."""
    found = [
        f"has an error in the console: {entry['message']}"
        for entry in browser.get_log("browser")
        if entry["level"] == "SEVERE"
    ]
    for entry in browser.get_log("performance"):
        message = json.loads(entry["message"])["message"]
        if message["method"] == "Network.requestWillBeSent":
            address = urlsplit(message["params"]["request"]["url"])
            if address.scheme in {"http", "https"} and address.netloc != host:
                found.append(f"asks {address.netloc} for {address.path}")
    return found


def search_problems(browser: webdriver.Chrome, site: str, width: int) -> list[str]:
    """Whether the search finds what it should."""
    word, page = SOUGHT
    browser.get(f"{site}/search.html?q={word}")
    script = "return [...document.querySelectorAll('#search-results a')].map(link => link.href)"
    try:
        WebDriverWait(browser, 20).until(lambda b: any(page in link for link in b.execute_script(script)))
    except Exception as problem:  # a timeout, or not a page
        return [f"does not find {word} on {page} ({type(problem).__name__})"]
    problems: list[str] = browser.execute_script(LOOK, width)
    return problems


def look_at(browser: webdriver.Chrome, root: Path, host: str) -> list[str]:
    """All problems of all pages, a line each."""
    found = []
    for screen, (width, height) in SCREENS.items():
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": screen == "phone"}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        for path in sorted(root.rglob("*.html")):
            if "_static" in path.parts or path.name == "search.html":  # that one is looked at with its results
                continue
            page = path.relative_to(root).as_posix()
            browser.get(f"http://{host}/{page}")
            found += [f"{page} ({screen}) {problem}" for problem in browser.execute_script(LOOK, width)]
            found += [f"{page} ({screen}) {problem}" for problem in logged_problems(browser, host)]
        found += [f"search.html ({screen}) {problem}" for problem in search_problems(browser, f"http://{host}", width)]
    return found


def main(root: Path) -> int:
    """Print each problem; end with 1 where there is one."""
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        print("skipped: no Chromium here. On Debian: apt-get install chromium chromium-driver")
        return 0
    if not (root / "index.html").is_file():
        print(f"{root} holds no site: build it first (make docs)")
        return 1
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(QuietServer, directory=str(root)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        browser = open_browser(chromium, driver, profile)
        try:
            found = look_at(browser, root, f"127.0.0.1:{server.server_address[1]}")
        finally:
            browser.quit()
            server.shutdown()
    for problem in found:
        print(problem)
    print(f"seen on {' and '.join(SCREENS)}: {len(found) or 'no'} problems")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
