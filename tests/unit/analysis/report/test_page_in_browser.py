"""The report's page in a real browser: quiet, self-contained, narrow enough, every control does something."""

import io
import json
import shutil
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from fake_runs import training_like, write_run
from matplotlib.figure import Figure
from playwright.sync_api import Browser, Locator, Page, sync_playwright

from analysis import load_runs
from analysis.paper.claims import paper_claims
from analysis.report.interactive import interactive
from analysis.report.numbers import build_report
from analysis.report.page import HEADLINE, Content, Drawn, render_page
from harness.rundir import append_texts

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium")
STEPS, SEEDS = 24, 3
SCRIPT = "<script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'>\x1b[31m"
CANVAS = "box => box.querySelector('canvas').toDataURL()"
CHOOSE = """option => {
  option.selected = true;
  option.parentElement.dispatchEvent(new Event("change", { bubbles: true }));
}"""
CONTROLS = """[...document.querySelectorAll(".explorer, .responses")].flatMap((box) =>
  [...box.querySelectorAll("select, input, button, summary")]
    .filter((one) => !one.disabled && one.checkVisibility() && (one.type !== "radio" || one.checked))
    .map((one) => `${one.tagName} ${one.dataset.role} ${one.value}`))"""
FOCUSED = """(({ tagName, dataset, value }) => [
  `${tagName} ${dataset.role} ${value}`, getComputedStyle(document.activeElement).outlineStyle
])(document.activeElement)"""
BEYOND = """((edge) => [...document.querySelectorAll(".explorer *:not(.scroll *, .uplot *), .responses *")]
  .filter((one) => one.getBoundingClientRect().right > edge + 1).map((one) => one.outerHTML.slice(0, 90))
)(document.querySelector(".explorer").getBoundingClientRect().right)"""
UNNAMED = """[...document.querySelectorAll("select, input")]
  .filter((one) => !one.labels.length || !one.labels[0].innerText.trim()).map((one) => one.outerHTML)"""
READY = {name: f".{name}[data-ready]" for name in ("explorer", "responses")}


def write(root: Path) -> None:
    """Three losses, two of which are one and the same, with all that the picture can choose and some texts."""
    for arm, growth in (("grpo", 0.5), ("grpo_sum", 0.5), ("luspo", 0.9)):
        for seed in range(SEEDS):
            rng = np.random.default_rng(seed)
            metrics = training_like(STEPS, seed, growth)
            more = {
                "cumulative_tokens": np.cumsum(16 * metrics["response_length"]),
                "step_seconds": rng.uniform(1, 3, STEPS),
                "ppo_kl": np.abs(rng.normal(1e-3, 1e-4, STEPS)),
            }
            run = write_run(root, {**metrics, **more}, experiment="tiny", arm=arm, seed=seed)
            rows = [
                {
                    "of": of, "step": step, "prompt_id": prompt, "sample": 0, "prompt": f"{of} {prompt}", "tokens": 3,
                    "response": f"{arm} {seed} {of} {step} {prompt} {SCRIPT}", "accuracy": float(seed == 0),
                    "truncated": False, "clipped": None if of == "validation" else 2,
                }
                for of in ("validation", "training") for step in (4, 8, 12) for prompt in (0, 1)
            ]  # fmt: skip
            append_texts(run.attempts()[0], rows)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    write(folder / "runs")
    runs = load_runs(folder / "runs")
    report = build_report(runs, paper_claims())
    figure, drawn = Figure(figsize=(3, 2)), io.BytesIO()
    figure.add_axes((0, 0, 1, 1)).plot([0, 1])
    figure.savefig(drawn, format="png")
    shown = Drawn(HEADLINE, "a picture", drawn.getvalue())
    content = Content({"tiny": [shown]}, interactive={"tiny": interactive(runs)})
    page = folder / "index.html"
    page.write_text(render_page("tiny", report, content), encoding="utf-8")
    return page


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def page(browser: Browser, path: Path) -> Iterator[Page]:
    """The page at 1400 pixels, every part open, all scripts done. Tests leave the controls as they please."""
    yield from opened(browser, path, 1400)


def opened(browser: Browser, path: Path, width: int, **more: object) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": width, "height": 900}, **more)  # pyright: ignore
    page = context.new_page()
    page.said = []  # pyright: ignore
    page.on("console", lambda message: page.said.append(message.text))  # pyright: ignore
    page.on("pageerror", lambda error: page.said.append(str(error)))  # pyright: ignore
    page.on("request", lambda request: page.said.append(request.url))  # pyright: ignore
    page.goto(path.as_uri())
    page.evaluate("document.querySelectorAll('details').forEach((part) => { part.open = true; })")
    if more.get("java_script_enabled", True):
        for name in READY.values():
            page.wait_for_selector(name)
    yield page
    context.close()


@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), (1400, "light")])
def test_it_is_quiet_asks_for_nothing_and_never_scrolls_sideways(
    browser: Browser, path: Path, width: int, scheme: str
) -> None:
    for page in opened(browser, path, width, color_scheme=scheme):
        for option in page.locator(".explorer select option:enabled").all():
            option.evaluate(CHOOSE)
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            assert page.evaluate(BEYOND) == []
        assert page.said == [path.as_uri()]  # pyright: ignore


def test_without_javascript_answer_pictures_and_responses_read(browser: Browser, path: Path) -> None:
    context = browser.new_context(java_script_enabled=False, viewport={"width": 390, "height": 900})
    page = context.new_page()
    page.goto(path.as_uri())
    assert page.locator("p.first").inner_text().startswith("LUSPO's responses are longer than")
    assert page.locator("img").first.is_visible()
    assert page.locator(".explorer").is_hidden()
    assert page.locator("p.without").first.is_visible()
    page.locator("summary", has_text="Responses side by side").click()
    cards = page.locator(".card")
    assert [card.locator("h4").inner_text() for card in cards.all()] == ["grpo", "grpo_sum", "luspo"]
    assert cards.nth(2).locator("pre").inner_text().startswith("luspo 0 validation 12 0 <script>")
    assert page.locator(".responses .controls").is_hidden()
    context.close()


def test_every_control_changes_the_drawing(page: Page) -> None:
    box = page.locator(".explorer")

    def changes(act: Locator, *given: object) -> None:
        before = box.evaluate(CANVAS)
        (act.select_option if given else act.click)(*given)  # pyright: ignore
        assert box.evaluate(CANVAS) != before, f"{act} {given} changed nothing"

    for role in ("quantity", "axis", "window"):
        select = box.locator(f"[data-role={role}]")
        values = [option.get_attribute("value") for option in select.locator("option:enabled").all()]
        assert len(values) > 1
        first = select.input_value()
        for value in values:
            if value != select.input_value():
                changes(select, value)
        select.select_option(first)
    changes(box.locator("[data-role=lines][value=runs]"))
    changes(box.locator("[data-role=lines][value=mean]"))
    changes(box.locator("[data-role=log]"))
    changes(box.locator("[data-role=log]"))
    for arm in box.locator("[data-role=arm]").all():
        changes(arm)
        changes(arm)


def test_a_place_says_the_mean_of_every_loss_and_its_runs(page: Page, path: Path) -> None:
    box = page.locator(".explorer")
    box.locator("[data-role=quantity]").select_option("response_length")
    box.locator("[data-role=axis]").select_option("step")
    box.locator("[data-role=window]").select_option("1")
    box.locator("[data-role=place]").evaluate(
        "one => { one.value = 9; one.dispatchEvent(new Event('input', {bubbles: true})); }"
    )
    assert box.locator("caption[data-role=at]").inner_text() == "At step 10"
    metrics = load_runs(path.parent / "runs").metrics
    for arm in ("grpo", "luspo"):
        found = metrics[(metrics["arm"] == arm) & (metrics["step"] == 10)]["response_length"]
        mean, interval, n = (
            cell.inner_text() for cell in box.locator("tr[data-arm]", has_text=arm).first.locator("td").all()
        )
        assert float(mean) == pytest.approx(found.mean(), rel=5e-3)
        half = 4.302653 * found.std() / np.sqrt(SEEDS)  # Student's t with 2 degrees of freedom, from a table
        low, high = map(float, interval.split(" to "))
        assert (low, high) == (
            pytest.approx(found.mean() - half, rel=5e-3),
            pytest.approx(found.mean() + half, rel=5e-3),
        )
        assert n == str(SEEDS)
    over = box.locator(".u-over")
    over.hover(position={"x": 1, "y": 50})
    assert box.locator("caption[data-role=at]").inner_text() == "At step 1"


def test_equal_curves_are_both_seen_and_said_to_be_equal(page: Page) -> None:
    box = page.locator(".explorer")
    box.locator("[data-role=quantity]").select_option("response_length")
    assert "grpo and grpo_sum are equal at every step" in box.locator("[data-role=said]").inner_text()
    seen = box.evaluate(
        """box => {
          const canvas = box.querySelector("canvas");
          const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
          const found = { "#0072B2": 0, "#56B4E9": 0 };
          for (let at = 0; at < data.length; at += 4) {
            for (const colour of Object.keys(found)) {
              const own = [1, 3, 5].map((i) => parseInt(colour.slice(i, i + 2), 16));
              const near = own.every((value, i) => Math.abs(data[at + i] - value) < 24);
              if (data[at + 3] > 100 && near) found[colour] += 1;
            }
          }
          return found;
        }"""
    )
    assert min(seen.values()) > 100, seen


def test_the_keyboard_reaches_every_control_and_shows_where_it_is(page: Page) -> None:
    page.evaluate("document.activeElement.blur(); window.scrollTo(0, 0)")
    wanted = page.evaluate(CONTROLS)
    reached, plain = [], []
    for _ in range(len(wanted) + 60):
        page.keyboard.press("Tab")
        name, outline = page.evaluate(FOCUSED)
        reached.append(name)
        plain += [name] if outline == "none" else []
    assert not {*wanted} - {*reached}
    assert not {*wanted} & {*plain}
    assert page.evaluate(UNNAMED) == []
    place = page.locator("[data-role=place]")
    place.focus()
    before = page.locator("caption[data-role=at]").inner_text()
    page.keyboard.press("ArrowLeft")
    assert page.locator("caption[data-role=at]").inner_text() != before


def test_the_numbers_are_a_table_too_and_a_file(page: Page) -> None:
    box = page.locator(".explorer")
    box.locator("[data-role=quantity]").select_option("accuracy")
    assert box.locator("[data-role=numbers] tr").count() == 1 + 3 * STEPS
    with page.expect_download() as download:
        box.locator("[data-role=csv]").click()
    lines = Path(download.value.path()).read_text().splitlines()
    assert download.value.suggested_filename == "accuracy.csv"
    assert lines[0] == "loss,training step,mean training accuracy (fraction),low,high,runs"
    assert len(lines) == 1 + 3 * STEPS


def test_responses_are_those_of_the_chosen_prompt_step_and_seed(page: Page) -> None:
    box = page.locator(".responses")

    def shown() -> list[str]:
        return [" ".join(text.split()[:5]) for text in box.locator(".card pre").all_inner_texts()]

    def arms(rest: str) -> list[str]:
        return [f"{arm} {rest}" for arm in ("grpo", "grpo_sum", "luspo")]

    assert shown() == arms("0 validation 12 0")
    box.locator("[data-role=seed]").select_option("2")
    box.locator("[data-role=prompt]").select_option("1")
    assert shown() == arms("2 validation 12 1")
    box.locator("[data-role=step]").focus()
    page.keyboard.press("ArrowLeft")
    assert shown() == arms("2 validation 8 1")
    assert box.locator(".facts").first.inner_text() == "\u2717 wrong, 3 tokens"
    box.locator("[data-role=kind]").select_option("training")
    assert shown() == arms("2 training 12 1")
    assert box.locator(".facts").first.inner_text() == "\u2717 wrong, 3 tokens, 2 clipped"


def test_what_a_model_wrote_is_text_and_nothing_else(page: Page, path: Path) -> None:
    text = page.locator(".card pre").first.inner_text()
    assert text.endswith("<script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'>\u241b[31m")
    assert page.evaluate("window.hacked") is None
    assert page.locator(".card img").count() == 0
    assert json.dumps(SCRIPT) not in path.read_text()


def test_headings_follow_each_other(page: Page) -> None:
    levels = page.evaluate("[...document.querySelectorAll('h1, h2, h3, h4, h5')].map((one) => Number(one.tagName[1]))")
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in pairwise(levels)), levels
