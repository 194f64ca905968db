"""The report: its page stands alone, its numbers are those of the claims, and every run is in it."""

import html
import html.parser
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from fake_runs import training_like, write_run, write_sequences
from scipy import stats

from analysis import load_runs
from analysis.__main__ import main
from analysis.paper.claims import paper_claims
from analysis.report.catalogue import OURS
from analysis.report.comparability import comparability
from analysis.report.numbers import build_report
from analysis.report.page import CONTRASTS, TILES, Content, render_page
from analysis.report.sections import claims_table
from analysis.statistics.claims import evaluate

ROOT = Path(__file__).resolve().parents[4]
HEAVY = ("torch", "ray", "verl", "transformers", "omegaconf", "hydra", "tensordict")
STEPS = 20


class Page(html.parser.HTMLParser):
    """Summaries of the tiles in order, addresses that the page would load, its text, and tags in order."""

    def __init__(self, text: str):
        super().__init__()
        self.tiles: list[str] = []
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.text: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.tags.append(tag)
        if given.get("class") == "tile":
            self.tiles.append("")
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "action")]

    def handle_data(self, data: str) -> None:
        self.text.append(data)
        if self.tags[-3:-1] == ["details", "summary"] and self.tiles and not self.tiles[-1]:
            self.tiles[-1] = data


def write(root: Path, seeds: int = 5, **manifest: str) -> None:
    for arm, growth in (("grpo", 0.5), ("gspo", 0.1), ("luspo", 0.9)):
        for seed in range(seeds):
            metrics = training_like(STEPS, seed, growth)
            metrics |= {"tokens": 16 * metrics["response_length"], "val_accuracy": metrics["accuracy"]}
            write_run(root, metrics, experiment="tiny", arm=arm, seed=seed, manifest={"step1_responses": str(seed)})


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    write(folder / "runs")
    write_run(
        folder / "runs", training_like(7, 9), experiment="tiny", arm="luspo", seed=9, state="failed", planned=STEPS,
        error="in the rollout: <script>alert(1)</script>",
    )  # fmt: skip
    assert main([str(folder / "runs"), "--out", str(folder / "out"), "--name", "a & b"]) == 0
    return folder


def test_the_page_stands_alone_and_begins_with_the_answer(report: Path) -> None:
    text = (report / "out/index.html").read_text()
    page = Page(text)
    first = "LUSPO's responses are longer than GSPO's: at the end of training they are"
    assert html.unescape(text).index(first) < html.unescape(text).index("<img")
    assert text.index("<img") < text.index('<details class="tile"')
    assert page.tiles[:3] == [
        "Every curve: choose what is drawn, and over what",
        "Responses side by side: what do the models write?",
        "Any two losses: how do they differ?",
    ]
    assert page.tiles[-1] == "Files: where are the numbers?"
    assert {
        "The paper's claims: which do these runs support?",
        "Are the runs matched, and what is proved of them?",
    } <= {*page.tiles}
    assert text.count('<details class="tile" open>') == 2  # the curves, and the answer's picture
    outside = [address for address in page.addresses if not address.startswith(("#", "data:image/png;base64,"))]
    assert outside == []
    assert "url(" not in text
    assert "@import" not in text
    assert sum(address.startswith("data:") for address in page.addresses) >= 5
    assert 'name="viewport"' in text
    assert "@media print" in text
    assert "prefers-color-scheme: dark" in text


def test_every_figure_of_ours_has_a_tile() -> None:
    placed = [name for names in TILES.values() for name in names]
    assert len(placed) == len(set(placed))
    assert {*OURS, CONTRASTS} == set(placed)


def test_what_comes_from_runs_is_escaped_and_failures_are_shown(report: Path) -> None:
    text = (report / "out/index.html").read_text()
    assert "<script>" not in text
    assert "&lt;script&gt;" in text
    shown = "".join(Page(text).text)
    assert "15 of 16 done" in shown
    assert "tiny/luspo/seed=9" in shown
    assert "a & b: does the loss" in shown


def test_report_json_has_the_claims_numbers_and_they_trace_to_runs(report: Path) -> None:
    content = json.loads((report / "out/report.json").read_text())
    (c1,) = [r for r in content["claims"] if (r["id"], r["experiment"]) == ("C1", "tiny")]
    runs = load_runs(report / "runs")
    (result,) = [r for r in evaluate(runs, paper_claims()) if r.claim.id == "C1"]
    assert c1["text"] == result.text
    # By hand from the metrics: the mean length over the last fifth of the steps, LUSPO over GSPO, seed by seed.
    last = runs.metrics[(runs.metrics["step"] > 0.8 * STEPS) & (runs.metrics["seed"] < 9)]
    lengths = last.groupby(["seed", "arm"])["response_length"].mean().unstack()
    logs = np.log(lengths["luspo"] / lengths["gspo"])
    low, high = np.exp(stats.t.interval(0.95, 4, logs.mean(), stats.sem(logs)))
    assert (c1["low_plain"], c1["high_plain"]) == (pytest.approx(low), pytest.approx(high))
    assert set(c1["runs"]) >= {"tiny/luspo/seed=0", "tiny/gspo/seed=4"}
    assert {run["run"] for run in content["runs"]} == set(runs.runs["run"])


def test_tables_are_written_in_four_forms_and_figures_in_two(report: Path) -> None:
    tables = {path.name for path in (report / "out/tables").iterdir()}
    for name in ("claims_tiny", "arms_tiny", "matching_tiny", "runs", "table_2", "settings_tiny", "audit_differences"):
        assert {f"{name}{suffix}" for suffix in (".md", ".csv", ".tex", ".html")} <= tables
    figures = {path.name for path in (report / "out/figures").iterdir()}
    assert {"response_length.png", "response_length.pdf"} <= figures
    missing = json.loads((report / "out/report.json").read_text())["missing_figures"]
    assert missing["tiny"]["entropy"] == "no run recorded entropy"
    assert "paper_4a" in missing["paper"]


def test_the_certificate_tells_what_differs(tmp_path: Path) -> None:
    treatment = {"actor.loss_agg_mode": "seq-mean-token-mean", "actor.policy_loss.loss_mode": "gspo"}
    other = treatment | {"actor.loss_agg_mode": "seq-mean-token-sum"}
    for arm, values, start in (("gspo", treatment, "a"), ("luspo", other, "a"), ("luspo_norm", other, "b")):
        write_run(
            tmp_path, {"response_length": [1.0]}, arm=arm,
            manifest={
                "treatment": values, "step1_responses": start, "versions": {"torch": "1" if start == "a" else "2"}
            },
        )  # fmt: skip
    found = comparability(load_runs(tmp_path))
    assert found["matched"]
    assert set(found["treatment"]) == {"actor.loss_agg_mode"}
    assert found["same_start"] == {"pairs": 3, "equal": 1}
    assert found["versions"] == {"torch": ["1", "2"]}
    assert found["commit"] == {"commit": ["unknown"]}
    write_run(tmp_path, {"response_length": [1.0]}, arm="gspo", seed=1, controlled={"data.n": 2})
    found = comparability(load_runs(tmp_path))
    assert not found["matched"]
    assert "data.n" in found["why_not"]


def test_a_single_run_has_figures_and_no_interval(tmp_path: Path) -> None:
    write_run(tmp_path / "runs", training_like(STEPS, 0), experiment="tiny", arm="gspo")
    assert main([str(tmp_path / "runs"), "--out", str(tmp_path / "out")]) == 0
    content = json.loads((tmp_path / "out/report.json").read_text())
    assert all(claim["verdict"] == "not tested" for claim in content["claims"])
    assert content["experiments"]["tiny"]["arms"][0]["n"] == 1
    assert (tmp_path / "out/figures/response_length.png").exists()


def test_it_ends_with_what_a_verdict_lacks_and_the_command_that_gets_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for arm, growth in (("gspo", 0.1), ("luspo", 0.9)):
        for seed in (1, 7):
            write_run(tmp_path / "runs", training_like(STEPS, seed, growth), experiment="tiny", arm=arm, seed=seed)
    assert main([str(tmp_path / "runs"), "--out", str(tmp_path / "out")]) == 0
    said, lacking, page = capsys.readouterr().out.splitlines()[-3:]
    assert said.startswith("2 runs of each loss say nothing about the loss")
    assert lacking.startswith("tiny: 2 of the 5 seeds that a verdict needs")
    assert "C1" in lacking
    assert lacking.endswith("make sweep EXPERIMENT=tiny SEEDS=1,7,0,2,3")  # the two that are there, and three others
    assert page == f"open {tmp_path / 'out' / 'index.html'} in a browser"
    write(tmp_path / "enough")
    assert main([str(tmp_path / "enough"), "--out", str(tmp_path / "out")]) == 0
    assert "that a verdict needs" not in capsys.readouterr().out


def test_contrasts_are_there_when_their_arms_are(tmp_path: Path) -> None:
    write(tmp_path)
    assert "factorial" not in build_report(load_runs(tmp_path), paper_claims())["experiments"]["tiny"]
    for seed in range(5):
        write_run(tmp_path, training_like(STEPS, seed), experiment="tiny", arm="grpo_sum", seed=seed)
    content = build_report(load_runs(tmp_path), paper_claims())["experiments"]["tiny"]
    assert {row["contrast"] for row in content["factorial"]} >= {"ratio by sequence", "interaction"}
    assert content["attribution"][0]["n"] == 5


def test_an_initial_model_is_in_no_curve_and_in_no_arm(tmp_path: Path) -> None:
    write(tmp_path)
    base = write_run(tmp_path, experiment="tiny", arm="base", planned=0)
    report = build_report(load_runs(tmp_path), paper_claims())
    assert [arm["arm"] for arm in report["experiments"]["tiny"]["arms"]] == ["grpo", "gspo", "luspo"]
    assert {run["run"] for run in report["runs"]} >= {"tiny/base/seed=0"}
    assert load_runs(base.path).trained().runs["arm"].tolist() == ["base"]


def test_a_contrast_of_two_experiments_says_so(tmp_path: Path) -> None:
    for experiment, after in (("multimodal_mix", 130.0), ("multimodal", 70.0)):
        for seed in range(3):
            lengths = np.where(np.arange(STEPS) < 10, 100.0, after + seed)
            data = {"hash.train_data": experiment}
            metrics = {"response_length": lengths}
            write_run(tmp_path, metrics, experiment=experiment, arm="gspo", seed=seed, controlled=data)
    report = build_report(load_runs(tmp_path), paper_claims())
    rows = {row[1]: row for row in claims_table(report, "multimodal_mix").rows}
    _, _, verdict, estimate, n, _, basis, _ = rows["C5, mix over ViRL39K"]
    assert [getattr(entry, "text", entry) for entry in (verdict, n, basis)] == ["supported", "3", "config, not data"]
    assert getattr(estimate, "text", "").startswith("1.85 x [1.")  # 131 over 71
    text = " ".join(render_page("both", report, Content()).split())
    assert "here and on multimodal;" in text
    assert "On multimodal: 0: 0.700; 1: 0.710; 2: 0.720." in text


def test_no_run_found_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert re.fullmatch(r"error: no runs found: .*\n", error)
    assert str(tmp_path) in error


def test_analysis_needs_none_of_the_heavy_packages(tmp_path: Path) -> None:
    """In a process in which importing any of them fails."""
    write_run(tmp_path / "runs", training_like(6, 0), experiment="tiny", arm="gspo")
    code = f"""
import importlib.abc, sys
class Refuse(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {HEAVY!r}:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Refuse())
from analysis.__main__ import main
sys.exit(main([{str(tmp_path / "runs")!r}, "--out", {str(tmp_path / "out")!r}]))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out/index.html").exists()


def test_pressure_figures_are_drawn_from_recorded_responses(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for arm in ("gspo", "luspo"):
        run = write_run(
            tmp_path / "runs", training_like(2, 0), experiment="tiny", arm=arm,
            manifest={"treatment": {"actor_rollout_ref.actor.policy_loss.loss_mode": arm}},
        )  # fmt: skip
        for step in (1, 2):
            right = rng.integers(0, 2, 32).astype(float)
            write_sequences(
                run.attempts()[0], step, prompt_id=np.repeat(np.arange(4), 8), sample=np.tile(np.arange(8), 4),
                update=np.repeat([1, 2], 16), tokens=rng.integers(5, 30, 32), advantage=right - 0.5,
                log_ratio=rng.normal(0, 1e-3, 32), clipped=np.zeros(32, dtype=int), effective_ratio=np.ones(32),
                out_of_range_low=np.zeros(32, dtype=int), out_of_range_high=np.zeros(32, dtype=int),
                accuracy=right, reward=right,
            )  # fmt: skip
    assert main([str(tmp_path / "runs"), "--out", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out/figures/length_pressure.png").exists()
    assert (tmp_path / "out/figures/pressure_parts.png").exists()
