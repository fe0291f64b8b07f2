"""The site is built from what is stored, loads nothing from elsewhere, and is whole in a browser."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from reproduce.declare import plan
from reproduce.show import words
from reproduce.show.rows import make_table
from reproduce.site.build import LARGEST, build
from reproduce.site.pages import stores
from reproduce.verdicts.statistics import Direction
from tests.reproduce.site.browser import CHROMIUM, Browser

RESULTS = Path(__file__).parents[3] / "results"

pytest.importorskip("myst_nb", reason="the extra `site` is not installed")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("site") / "html"
    build(RESULTS, output)
    return output


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("there is no Chromium here (Debian: apt-get install chromium)")
    opened = Browser(tmp_path_factory.mktemp("browser"))
    yield opened
    opened.close()


def pages(site: Path) -> list[Path]:
    return [path for path in sorted(site.rglob("*.html")) if path.name not in ("genindex.html", "py-modindex.html")]


def test_the_front_page_has_every_claim_with_its_sentence_and_records(site: Path) -> None:
    text = re.sub(r"<[^>]+>", "", (site / "index.html").read_text("utf-8")).replace("&#39;", "'")
    text = re.sub(r"\s+", " ", text).replace("’", "'").replace("&amp;", "&")
    for profile, store in stores(RESULTS):
        for number in plan.tables():
            table = make_table(number, profile, store)
            if any(row.records for row in table.rows):
                assert words.count(table.claims) in text
                for judged in table.claims:
                    # Typography aside: quotes and ranges are set as a printer would. What was not run shares a line.
                    said = words.sentence(judged).split(":")[0]
                    if judged.verdict.direction == Direction.NOT_RUN:
                        said = f"{judged.claim.words.rstrip('.')} ({judged.dataset})."
                    assert said in text
        assert f'href="findings/{profile.name}.html"' in (site / "index.html").read_text("utf-8")
    for part in ("What stands", "The theory, checked numerically"):
        assert part in text
    linked = re.findall(r'href="(records/[^"]+)"', (site / "index.html").read_text("utf-8"))
    assert linked
    assert all((site / path).exists() for path in linked)


def test_it_is_small_and_refers_to_nothing_elsewhere_that_a_page_would_load(site: Path) -> None:
    assert sum(path.stat().st_size for path in site.rglob("*") if path.is_file()) <= LARGEST
    for path in pages(site):
        html = path.read_text("utf-8")
        assert not re.search(r"<(?:script|img|iframe)[^>]+src=[\"'](?:https?:)?//", html), path
        assert not re.search(r"<link[^>]+rel=[\"'](?:stylesheet|preload)[\"'][^>]+href=[\"'](?:https?:)?//", html), path


@pytest.mark.parametrize(("width", "dark"), [(1200, False), (1200, True), (390, False), (390, True)])
def test_every_page_is_whole_in_a_browser(site: Path, browser: Browser, width: int, dark: bool) -> None:
    clipped = """[...document.querySelectorAll('article table')].filter(t => {
        const r = t.getBoundingClientRect();
        if (r.right <= document.documentElement.clientWidth + 1 && r.left >= -1) return false;
        for (let p = t.parentElement; p; p = p.parentElement)
            if (['auto', 'scroll'].includes(getComputedStyle(p).overflowX)) return false;
        return true; }).length"""
    found = []
    for path in pages(site):
        browser.open(path, width, dark)
        name = path.relative_to(site)
        text = browser.ask("document.querySelector('article') ? document.querySelector('article').innerText : ''")
        raw = browser.ask(
            "[...document.querySelectorAll('.math')].filter(m => !m.querySelector('mjx-container')).length"
        )
        # The forest plot's drawings for the other theme and the other width are not seen.
        shown = "[...document.querySelectorAll('article img')].filter(i => i.offsetWidth > 0).map(i => i.src)"
        others = ("-light-" if dark else "-dark-", "-wide." if width < 600 else "-narrow.")
        unreadable = """[...document.querySelectorAll('article p, article li, article td')].filter(e => {
            const light = c => { const [r, g, b] = c.match(/[\\d.]+/g).map(Number); return r + g + b; };
            return Math.abs(light(getComputedStyle(e).color) - light(getComputedStyle(document.body).backgroundColor))
                < 250; }).length"""
        problems = {
            "pictures for others": [src for src in browser.ask(shown) for part in others if part in src],
            "text near its ground's colour": browser.ask(unreadable),
            "formulas that are not rendered": raw,
            "$$ in the text": int("$$" in text),
            "merrors": browser.ask("document.querySelectorAll('mjx-merror').length"),
            "clipped tables": browser.ask(clipped),
            "requests elsewhere": [url for url in browser.requests if not url.startswith(("file:", "data:", "blob:"))],
            "errors": [error for error in browser.errors],
            "wider than the screen": int(browser.ask("document.documentElement.scrollWidth > innerWidth + 1")),
        }
        found += [f"{name}: {what} {value}" for what, value in problems.items() if value]
    assert found == []


def test_a_folder_without_results_is_a_site_that_says_so(tmp_path: Path) -> None:
    from reproduce.site.pages import write_source

    (tmp_path / "source").mkdir()
    write_source(tmp_path / "results", RESULTS.parent, tmp_path / "source")
    assert "No run is stored yet" in (tmp_path / "source" / "index.md").read_text("utf-8")
    assert stores(tmp_path) == []


def test_a_folder_that_is_no_site_is_not_overwritten(tmp_path: Path, site: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep me", "utf-8")
    with pytest.raises(ValueError, match="is no site of ours and not empty"):
        build(RESULTS, tmp_path)
    assert (tmp_path / "mine.txt").exists()
