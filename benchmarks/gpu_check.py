"""``make gpu-check``: everything that only a GPU can show, the most valuable first, in at most 8 minutes.

Each part is a process of its own, so that a fault of one leaves the others, and writes ``OUT/<part>.json`` as it goes
on. A part that has ended is skipped when the command is repeated, until all of them have. Without a card the same parts
run at tiny sizes and in Triton's interpreter: whether they run, and nothing else.
"""

import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from benchmarks import components, network, pooling, step, thresholds
from benchmarks.__main__ import RESULTS, write_page
from benchmarks.label_maps import city_labels, noise_labels, worst_cases
from benchmarks.labeling_ways import WAYS
from benchmarks.measurement import (
    Measurement,
    Settings,
    device_name,
    environment,
    read_measurements,
    slug,
    write_measurements,
)
from benchmarks.timing import captured_in_graph
from examples.gta5_to_cityscapes.console import escape_unprintable

ROOT = Path(__file__).parent.parent
NO_CARD = "no card: skipped"
SECONDS_TO_END = 8.0  # what a part's process and the table at the end take beside the parts
_RIVALS = ("kornia union-find", "cupy per class", "cucim", "colorcc", "colorcc, RGB given, no areas", "cc3d one pass")
_MOST_TIMES_SLOWER = 1.5  # of a preferred backend, in any case
ENDED = "ended"

Measurements = Iterator[list[Measurement]]
Held = Mapping[str, tuple[dict[str, Any], Sequence[Measurement]]]
"""Environment and measurements by part."""

app = typer.Typer(add_completion=False, pretty_exceptions_show_locals=False)
console = Console()


@dataclass(frozen=True)
class Part:
    """One row of the table: what it runs, and the seconds it may take on a card."""

    run: Callable[[Settings, float], Measurements]
    seconds: float

    @property
    def fewest(self) -> float:
        """Seconds that it is worth starting in."""
        return min(self.seconds / 2, 40)


def kernel_tests(settings: Settings, seconds: float) -> Measurements:
    """The tests of what runs on a card, kernels compiled; without one a few of them, interpreted."""
    yield [_tested("tests/test_cuda.py", [])]
    few = ["-k", "no_graph_break or (any_integer_type and dtype0)"]
    yield [_tested("tests/test_triton.py", few if settings.interpreted else [])]


def training_tests(settings: Settings, seconds: float) -> Measurements:
    """NCCL with one rank, scaled fp16, a captured step, two streams."""
    yield [_tested("tests/test_cuda_training.py", [])]


def label_components(settings: Settings, seconds: float) -> Measurements:
    """Streets alone and in batches, noise and a spiral, beside the libraries that label on a GPU."""
    ends = time.monotonic() + 0.8 * seconds
    rivals = {name: WAYS[name] for name in _RIVALS}
    for case, labels in _cases(settings):
        if time.monotonic() > ends:
            yield [_note("components", case, "all", "no time left")]
            continue
        found = components.compare(case, labels.to(settings.device), settings, rivals)
        if settings.device.type == "cpu":
            found = [_without_a_card(one) for one in found] + [_note("components", case, "CUDA graphs", NO_CARD)]
        yield found
    if settings.device.type == "cuda":
        yield [_graph_of("colorcc", city_labels(1, 90, 160).to(settings.device))]


def _without_a_card(one: Measurement) -> Measurement:
    return replace(one, extra={"note": NO_CARD}) if one.extra.get("note") == "runs on cuda only" else one


def _note(benchmark: str, case: str, way: str, note: str) -> Measurement:
    return Measurement(benchmark, case, way, None, None, {"note": note})


def _graph_of(way: str, labels: torch.Tensor) -> Measurement:
    """Whether another library's way can be captured."""
    note = WAYS[way].obstacle(labels, 0) or "can be captured"
    if note == "can be captured":
        try:
            captured_in_graph(partial(WAYS[way].find, labels, components.THINGS))
        except RuntimeError as error:
            note = f"cannot be captured: {str(error).splitlines()[0]}"
    return _note("components", "city 1x90x160", f"{way}, CUDA graph", note)


def _cases(settings: Settings) -> Iterator[tuple[str, torch.Tensor]]:
    sizes = [
        (1, 90, 160),
        (8, 90, 160),
        (16, 90, 160),
        (1, 512, 1024),
        (8, 512, 1024),
        (16, 512, 1024),
        (1, 1024, 2048),
    ]
    for batch, height, width in [(1, 4, 8)] if settings.quick else sizes:
        yield f"city {batch}x{height}x{width}", city_labels(batch, height, width)
    for height, width in [] if settings.quick else [(90, 160), (512, 1024)]:
        yield f"noise 1x{height}x{width}", noise_labels(1, height, width)
        yield f"spiral 1x{height}x{width}", worst_cases(height, width)["spiral"]


def _whole(run: Callable[[Settings], list[Measurement]], settings: Settings, seconds: float) -> Measurements:
    yield run(settings)


def pretrained_recipe(settings: Settings, seconds: float) -> Measurements:
    """SIM from ImageNet weights on the generated city, for as long as there is time; resumed by the next call."""
    preset, size, images = ("smoke", "96x48", 4) if settings.quick else ("small", "480x240", 300)
    folder = Path(tempfile.gettempdir()) / f"stuffinstance_gpu_check_{preset}"
    ends = time.monotonic() + seconds - 20  # for what follows
    city = folder / "city"
    if not (city / "cityscapes").exists():
        words = ["--out", city, "--train", images, "--val", images // 4, "--size", size, "--workers", os.cpu_count()]
        subprocess.run([sys.executable, "-m", "examples.generated_city", *map(str, words)], check=True, cwd=ROOT)
    words = ["train", "sim", "--source", city / "gta5", "--target", city / "cityscapes", "--out", folder / "runs"]
    words += ["--preset", preset, "--device", settings.device.type]
    if not settings.quick:
        words += ["--set", "schedule.max_steps=4000", "--set", "schedule.decay_steps=4000"]
    trained = subprocess.Popen([sys.executable, "-m", "examples.gta5_to_cityscapes", *map(str, words)], cwd=ROOT)
    try:
        trained.wait(max(1.0, ends - time.monotonic()))
    except subprocess.TimeoutExpired:
        trained.send_signal(signal.SIGTERM)  # saves first
        trained.wait()
    (log,) = folder.glob("runs/sim/seed0/metrics.jsonl")
    rows = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    last = {name: value for row in rows for name, value in row.items() if isinstance(value, int | float)}
    ended = (log.parent / "result.json").exists()
    yield [Measurement("recipe", f"sim, preset {preset}", "pipeline", None, None, {**last, "ended": int(ended)})]
    if not ended:
        raise TimeoutError(f"stopped at step {last.get('step')}, saved")


PARTS: Mapping[str, Part] = {
    "tests": Part(kernel_tests, 120),
    "components": Part(label_components, 90),
    "pooling": Part(partial(_whole, pooling.run), 60),
    "step": Part(partial(_whole, step.run), 50),
    "thresholds": Part(partial(_whole, thresholds.run), 40),
    "network": Part(partial(_whole, network.run), 60),
    "training": Part(training_tests, 60),
    "recipe": Part(pretrained_recipe, 600),
}
"""In the order of their worth."""


def _tested(file: str, words: Sequence[str]) -> Measurement:
    """A file of tests, run by pytest: how many passed, and which failed."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}", file, *words]
        subprocess.run(command, cwd=ROOT, check=False)
        cases = list(ElementTree.parse(report).getroot().iter("testcase"))
    states = [next((e for e in case if e.tag in ("failure", "error", "skipped")), None) for case in cases]
    wrong = {
        str(case.get("name")): str(state.get("message"))[:300]
        for case, state in zip(cases, states, strict=True)
        if state is not None and state.tag != "skipped"
    }
    reasons = Counter(state.get("message") for state in states if state is not None and state.tag == "skipped")
    extra: dict[str, float | int | str] = {"passed": states.count(None), "failed": len(wrong)} | wrong
    if reasons:
        extra["skipped"] = ", ".join(f"{count}: {reason}" for reason, count in reasons.items())
    if reasons and not torch.cuda.is_available():
        extra["note"] = NO_CARD
    return Measurement("tests", file, "pytest", None, None, extra)


def run_part(name: str, settings: Settings, out: Path, seconds: float) -> None:
    """Run one part here; its file holds all that it has measured so far, and whether it has ended."""
    where = environment(settings)
    kept: list[Measurement] = []
    for measurements in PARTS[name].run(settings, seconds):
        kept += measurements
        write_measurements(out / f"{name}.json", {name: (where | {"ended": False}, kept)})
    write_measurements(out / f"{name}.json", {name: (where | {"ended": True}, kept)})


def run_in_a_process(name: str, out: Path, seconds: float) -> None:
    """The same in a process of its own that ends in time.

    Raises:
        TimeoutError: If it did not end by itself.
        ChildProcessError: If it ended with an error.
    """
    command = [sys.executable, "-m", "benchmarks.gpu_check", name, "--alone", "--out", str(out)]
    process = subprocess.Popen([*command, "--minutes", str(seconds / 60)], cwd=ROOT, start_new_session=True)
    try:
        code = process.wait(seconds)
    except subprocess.TimeoutExpired:
        raise TimeoutError(f"stopped after {seconds:.0f} s") from None
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)  # with what it started
            process.wait()
    if code:
        raise ChildProcessError(f"ended with code {code}")


def ended_on(path: Path, device: torch.device) -> bool:
    """Whether the file holds a part that has ended on such a device."""
    if not path.exists():
        return False
    ((where, _),) = read_measurements(path).values()
    return bool(where["ended"]) and where["device"] == device_name(device)


def run_all(names: Sequence[str], device: torch.device, out: Path, minutes: float) -> dict[str, str]:
    """Run the parts that have not ended yet, in turn, while there is time.

    Returns:
        What became of each.
    """
    ends = time.monotonic() + 60 * minutes - SECONDS_TO_END
    states = {}
    for name in names:
        began = time.monotonic()
        left = ends - began
        seconds = min(PARTS[name].seconds, left) if device.type == "cuda" else left
        if ended_on(out / f"{name}.json", device):
            states[name] = ENDED
        elif seconds < PARTS[name].fewest:
            states[name] = "no time left"
        else:
            console.rule(f"{name}, at most {seconds:.0f} s")
            try:
                run_in_a_process(name, out, seconds)
                states[name] = ENDED
            except (TimeoutError, ChildProcessError) as error:
                states[name] = str(error)
    return states


@dataclass(frozen=True)
class Preference:
    """What a GPU should prefer for an operator, best first, and why."""

    order: tuple[str, ...]
    why: str


def preferences(measured: Sequence[Measurement]) -> dict[str, Preference]:
    """From the measurements of all parts: Triton's kernels where they passed, are faster, and never much slower.

    "Faster" is the geometric mean over all cases.
    """
    tests = [one for one in measured if one.benchmark == "tests"]
    failed = sum(int(one.extra["failed"]) for one in tests)
    passed = sum(int(one.extra["passed"]) for one in tests)
    if not tests or failed or any("note" in one.extra for one in tests):
        why = f"{failed} tests failed" if failed else "no tests ran on a card"
        return {operator: Preference((), why) for operator in ("connected_components", "region_mean")}
    return {
        operator: _preference(benchmark, measured, passed)
        for operator, benchmark in (("connected_components", "components"), ("region_mean", "pooling"))
    }


def _preference(benchmark: str, measured: Sequence[Measurement], passed: int) -> Preference:
    times = {
        (one.case, one.way): one.timing.median_ms
        for one in measured
        if one.benchmark == benchmark and one.timing is not None
    }
    ratios = {
        case: times[case, "stuffinstance torch"] / ms
        for (case, way), ms in times.items()
        if way == "stuffinstance triton" and (case, "stuffinstance torch") in times
    }
    if not ratios:
        return Preference((), "nothing was compared")
    mean = math.exp(sum(map(math.log, ratios.values())) / len(ratios))
    worst = min(ratios, key=ratios.__getitem__)
    why = (
        f"triton is {mean:.3g} times as fast as torch over {len(ratios)} cases, {ratios[worst]:.3g} times in the "
        f"worst, {worst}; {passed} tests passed"
    )
    return Preference(("triton",) if mean > 1 and ratios[worst] * _MOST_TIMES_SLOWER > 1 else (), why)


def as_source(found: Mapping[str, Preference]) -> str:
    """The line of ``src/stuffinstance/_backends.py`` that holds the preference."""
    orders = ", ".join(f'"{operator}": {one.order}'.replace("'", '"') for operator, one in found.items())
    return f"PREFERRED_ON_GPU: Mapping[str, tuple[str, ...]] = {{{orders}}}"


@app.command()
def check(
    parts: Annotated[list[str] | None, typer.Argument(help=f"Of {', '.join(PARTS)}; all where none is named.")] = None,
    out: Annotated[Path, typer.Option(file_okay=False, help="Folder of the results.")] = Path("runs/gpu_check"),
    minutes: Annotated[float, typer.Option(help="When the command ends, whatever is left to do.")] = 8.0,
    report: Annotated[
        bool, typer.Option("--report", help="Run nothing: put what OUT holds of a card into benchmarks/results.")
    ] = False,
    alone: Annotated[bool, typer.Option("--alone", hidden=True)] = False,
) -> None:
    """Run everything that needs a GPU, part by part; repeat the command until all parts have ended."""
    names = parts or list(PARTS)
    unknown = [name for name in names if name not in PARTS]
    if unknown:
        raise typer.BadParameter(f"parts must be of {', '.join(PARTS)}, got {', '.join(unknown)}.")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu":
        os.environ["TRITON_INTERPRET"] = "1"  # before the kernels' modules are imported
    if alone:
        run_part(names[0], settings_on(device), out, 60 * minutes)
        return
    out.mkdir(parents=True, exist_ok=True)
    if device.type == "cpu" and not report:
        console.print(f"{NO_CARD}, what needs one; the rest at tiny sizes and in Triton's interpreter.")
    states = dict.fromkeys(names, ENDED) if report else run_all(names, device, out, minutes)
    held = {name: part for name in names for name, part in _read(out / f"{name}.json").items()}
    table = Table("part", "state", "on", "measurements", "tests")
    for name, state in states.items():
        where, rows = held.get(name, ({}, []))
        tests = "; ".join(words for one in rows if (words := _test_words(one)))
        table.add_row(name, escape(state), where.get("device", ""), str(len(rows)), escape(tests))
    console.print(table)
    found = preferences([one for _, rows in held.values() for one in rows])
    for operator, one in found.items():
        first = " then ".join((*one.order, "the table's order"))
        console.print(f"{operator}: 'auto' on a GPU should prefer {first}: {one.why}", soft_wrap=True, markup=False)
    console.print(as_source(found), soft_wrap=True, highlight=False, markup=False)
    if report:
        console.print(f"Results: {put_into_results(held, RESULTS)}")
    failed = any(one.extra.get("failed") for _, rows in held.values() for one in rows)
    if failed or set(states.values()) != {ENDED}:
        raise typer.Exit(1)


def _read(path: Path) -> Held:
    return read_measurements(path) if path.exists() else {}


def put_into_results(held: Held, folder: Path) -> Path:
    """Keep what was measured on a card as ``<card>.json``, with its page and charts.

    Raises:
        typer.BadParameter: If it was measured without a card, or on several.
    """
    devices = {str(where["device"]) for where, _ in held.values()}
    if len(devices) != 1 or devices == {"cpu"}:
        raise typer.BadParameter(f"--report needs results of one card in OUT, got {', '.join(devices) or 'none'}.")
    path = folder / f"{slug(*devices)}.json"
    write_measurements(path, held)
    write_page(path, torch.device("cuda"))
    return path


def _test_words(one: Measurement) -> str:
    if one.benchmark != "tests":
        return ""
    return ", ".join(f"{one.extra[key]} {key}" for key in ("passed", "failed")) + f" {one.extra.get('note', '')}"


def settings_on(device: torch.device) -> Settings:
    """Short, since time on a card is; without one tiny."""
    if device.type == "cuda":
        return Settings(device, repeats=15, images=64, seconds_per_way=0.2)
    tiny = Settings(device, threads=1, quick=True, repeats=3, seconds_per_way=0.01)
    return replace(tiny, interpreted=True)


if __name__ == "__main__":
    escape_unprintable()
    app()
