"""From cases to rows: which sort of workload, and what is compared."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from benchmarks import cold, memory, peers
from fast_s2s.benchmarking import machine
from fast_s2s.benchmarking.cases import Case, Versus
from fast_s2s.benchmarking.harness import Plan, Summary, Unavailable
from fast_s2s.benchmarking.rows import Kind, Prepared, Row, failed, head, judge, observed, time_rows
from fast_s2s.benchmarking.workloads import Problem


@dataclass(frozen=True)
class Settings:
    """How to run the cases.

    ceilings:  of `machine.ceilings`
    limit_s:   for preparing and checking one side, such as compiling it
    slow:      run the peers that are slow to prepare too
    processes: per side where fresh processes are compared
    """

    plan: Plan
    ceilings: dict[str, Any]
    limit_s: float = 120.0
    slow: bool = False
    processes: int = 3


def case_rows(case: Case, settings: Settings) -> Iterator[Row]:
    """One row per peer: "status" is measured, unavailable, refused (a wrong result) or failed."""
    if case.kind == "time":
        yield from time_rows(case, kind_of(case, settings), settings.plan, settings.limit_s)
    else:
        yield from process_rows(case, settings)


def process_rows(case: Case, settings: Settings, device: str = "cpu") -> Iterator[Row]:
    """The rows of a case that is measured in fresh processes."""
    for versus in case.peers:
        with observed() as load:
            outcome = _processes_outcome(case, versus, settings, device)
        yield {**head(case, versus), **outcome, "load": load.facts}


def kind_of(case: Case, settings: Settings) -> Kind:
    """How the case's workload is prepared; slow sides only if `settings` ask for them."""
    return made_kind(KINDS[type(case.workload).__name__](), settings)


def made_kind(sort: Sort, settings: Settings, **more: Any) -> Kind:
    """`Kind` of a sort of workloads; `more` is passed on to it."""
    make, sides, slow, tolerance = sort

    def prepare(name: str, problem: Any) -> Prepared:
        if name in slow and not settings.slow:
            raise Unavailable("slow to prepare; runs with --compile")
        return sides(name, problem)

    def rates(problem: Any, seconds: float) -> Row:
        if not isinstance(problem, Problem):
            return {}
        return achieved(problem, seconds, settings.ceilings)

    return Kind(make, prepare, tolerance, rates, **more)


Sort = tuple[Callable[[Any], Any], Callable[..., Prepared], frozenset[str], Any]


def _lstm() -> Sort:
    return Problem, peers.prepare, peers.SLOW, lambda problem: problem.tolerance


def _norm() -> Sort:
    from benchmarks import norm_sides

    make, prepare = norm_sides.NormProblem, norm_sides.prepare
    return make, prepare, norm_sides.SLOW, lambda problem: problem.tolerance


def _generation() -> Sort:
    from benchmarks import decode_problem, decode_sides

    def prepare(name: str, problem: Any) -> Prepared:
        return decode_sides.SIDES[name](problem)

    tolerance = decode_problem.TOLERANCE
    return decode_problem.DecodeProblem, prepare, decode_sides.SLOW, lambda _: tolerance


def _words() -> Sort:
    from benchmarks import decode_problem, g2p_sides

    def prepare(name: str, words: Any) -> Prepared:
        return g2p_sides.SIDES[name](words)

    return lambda words: words, prepare, frozenset(), lambda _: decode_problem.TOLERANCE


def _together() -> Sort:
    from benchmarks import decode_problem, ensemble_sides

    def prepare(name: str, problem: Any) -> Prepared:
        return ensemble_sides.SIDES[name](problem)

    make = ensemble_sides.TogetherProblem
    return make, prepare, frozenset(), lambda _: decode_problem.TOLERANCE


def _stream() -> Sort:
    from benchmarks import decode_problem, packed_sides

    def prepare(name: str, problem: Any) -> Prepared:
        return packed_sides.SIDES[name](problem)

    make = packed_sides.StreamProblem
    return make, prepare, frozenset(), lambda _: decode_problem.TOLERANCE


def _speech() -> Sort:
    from benchmarks import decode_problem, transducer_sides

    def prepare(name: str, problem: Any) -> Prepared:
        return transducer_sides.SIDES[name](problem)

    make = transducer_sides.SpeechProblem
    return make, prepare, frozenset(), lambda _: decode_problem.TOLERANCE


def _paths() -> Sort:
    from benchmarks import decode_problem, forecast_sides

    def prepare(name: str, problem: Any) -> Prepared:
        return forecast_sides.SIDES[name](problem)

    make = forecast_sides.PathsProblem
    return make, prepare, frozenset(), lambda _: decode_problem.TOLERANCE


def _training_step() -> Sort:
    from benchmarks import seq2seq_sides

    make, prepare = seq2seq_sides.StepProblem, seq2seq_sides.prepare
    return make, prepare, frozenset(), lambda problem: problem.tolerance


# by the workload's class: problem, (name, problem) -> side and results, slow sides, tolerance.
# imported when met: `--base` runs these files on an older package, which may lack what others need
KINDS: dict[str, Callable[[], Sort]] = {
    "Workload": _lstm,
    "NormWorkload": _norm,
    "Generation": _generation,
    "Words": _words,
    "Together": _together,
    "Speech": _speech,
    "Stream": _stream,
    "Paths": _paths,
    "Step": _training_step,
}


def _processes_outcome(case: Case, versus: Versus, settings: Settings, device: str) -> Row:
    """Peak memory or the first call, of both sides in fresh processes, in turns."""
    runs: dict[str, list[dict[str, Any]]] = {"ours": [], "peer": []}
    names, side = {"ours": case.ours, "peer": versus.peer}, "ours"

    def run(name: str) -> dict[str, Any]:
        if case.kind == "memory":
            return memory.peak_bytes(name, case.workload, settings.limit_s)
        return cold.first_call(name, case.workload, settings.limit_s, device)

    try:
        for name in names.values():
            if name in peers.SLOW and not settings.slow:
                raise Unavailable("slow to prepare; runs with --compile")
        for _ in range(settings.processes):
            for side, name in names.items():
                runs[side].append(run(name))
    except Exception as error:
        return failed(error, side)
    found = (_memory_figures if case.kind == "memory" else _cold_figures)(case, versus, runs)
    errors = {side: answers[0]["errors"] for side, answers in runs.items()}
    return {"status": "measured", "errors": errors, **found}


def _memory_figures(case: Case, versus: Versus, runs: dict[str, list[Row]]) -> Row:
    peaks = {side: [run["bytes"] for run in found] for side, found in runs.items()}
    medians = {side: Summary.of(found) for side, found in peaks.items()}
    ratio = Summary.of([a / b for a, b in zip(*peaks.values(), strict=True)])
    cells = case.workload.steps * case.workload.batch * case.workload.hidden
    return {
        "bytes": {side: dataclasses.asdict(summary) for side, summary in medians.items()},
        # of steps x rows x hidden units
        "bytes_per_cell": {side: summary.median / cells for side, summary in medians.items()},
        "ratio": dataclasses.asdict(ratio),
        **judge(case, versus, ratio),
        "rounds": peaks,
    }


def _cold_figures(case: Case, versus: Versus, runs: dict[str, list[Row]]) -> Row:
    seconds = {side: [run["seconds"] for run in found] for side, found in runs.items()}
    ratio = Summary.of([b / a for a, b in zip(*seconds.values(), strict=True)])
    imports = {
        side: Summary.of([run["imports"] for run in found]).median for side, found in runs.items()
    }
    return {
        "seconds": {side: dataclasses.asdict(Summary.of(v)) for side, v in seconds.items()},
        "imports": imports,
        "ratio": dataclasses.asdict(ratio),
        **judge(case, versus, ratio),
        "rounds": seconds,
    }


def achieved(problem: Problem, seconds: float, ceilings: dict[str, Any]) -> Row:
    """Our rate of arithmetic and, in inference, of reading weights, beside the ceilings."""
    workload = problem.workload
    gflops = workload.flops(problem.tokens) / seconds / 1e9
    found: Row = {"gflops": gflops, "of_gemm": gflops / ceilings["gemm_gflops"]}
    if not workload.training:
        key, ceiling = machine.stream_ceiling(ceilings, workload.weights_size())
        gbs = workload.weight_bytes() / seconds / 1e9
        found |= {"gbs": gbs, "stream_megabytes": int(key), "of_stream": gbs / ceiling}
    return found
