"""The price matcher on the generalised assignment problem: gaps to the best plans known, at one setting for all.

Each instance becomes a Problem like any frame's: a pattern for each task and agent, a row for each agent, and a value
so large that leaving a task out never pays. DATA is a folder of instances in the OR-Library's format (m agents and n
tasks; m rows of n costs; m rows of n demands; m capacities), in folders of their own or not, with ``best_known.csv``.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from gainnet.errors import InputError
from gainnet.orchestrator.matcher import Matcher, build
from gainnet.orchestrator.plan import Plan
from gainnet.orchestrator.problem import Problem
from gainnet.rng import stream
from gainnet.scenario.matcher import Price

SETTINGS = Price(iterations=400, perturbations=10, effort=200, relative_gap=0.0)
"""Of the matcher, for every instance."""
REPEATS = 3
"""Decisions timed for each instance."""
TABLE, PATH, BEST = "best_known.csv", "Path", "Best known solution value"
TOLERANCE = 1e-9
UNSOLVED = 1.0
"""The gap of an instance without a feasible plan."""

MEANING = {
    "gap_mean": "mean of (cost - best known) / best known; 1 where the plan is infeasible; at most 0.003",
    "gap_max": "the largest",
    "infeasible": "instances whose plan leaves a task out or exceeds a capacity; must be 0",
    "decision_s_p50": "decision time of a median instance on one thread, s; at most 0.1",
    "decision_s_max": "decision time of the slowest instance, s",
    "certified_gap_mean": "mean of (cost - certified bound) / bound: what the plans prove by themselves",
    "instances": "instances in the folder",
    "settings": "of the price matcher, the same for every instance",
}


@dataclass(frozen=True, slots=True)
class Instance:
    """Assign every task to one agent at the least cost.

    Attributes:
        cost: cost of each task at each agent.
        demand: what it draws of that agent's capacity.
        capacity: of each agent.
        best: least cost known.
    """

    cost: Float[np.ndarray, "agent task"]
    demand: Float[np.ndarray, "agent task"]
    capacity: Float[np.ndarray, " agent"]
    best: float

    def prize(self) -> Float[np.ndarray, " task"]:
        """What assigning each task is worth: more than all costs together can differ by, so that none is left out."""
        dearest = self.cost.max(axis=0)
        return np.asarray(dearest + (dearest - self.cost.min(axis=0)).sum() + 1.0)

    def problem(self) -> Problem:
        """Maximise prizes less costs."""
        agents, tasks = self.cost.shape
        patterns = agents * tasks
        return Problem(
            task_ptr=np.arange(tasks + 1) * agents,
            value=(self.prize() - self.cost).T.ravel(),
            demand_ptr=np.arange(patterns + 1),
            demand_row=np.tile(np.arange(agents), tasks),
            demand_amount=self.demand.T.ravel(),
            capacity=self.capacity,
            row_id=np.arange(agents),
            setup=np.full((patterns, 2), -1),
            setup_row=np.zeros(0, np.int64),
            setup_size=np.zeros(0),
            setup_cost=np.zeros(0),
            tier=np.full(patterns, -1),
            nearest=np.zeros(patterns, np.int64),
        )

    def total(self, choice: Int[np.ndarray, " task"]) -> float | None:
        """Cost of a plan, counted on the instance itself; None where it is infeasible."""
        if (choice < 0).any():
            return None
        agents, tasks = self.cost.shape
        agent, task = choice % agents, np.arange(tasks)
        drawn = np.bincount(agent, self.demand[agent, task], agents)
        if (choice // agents != task).any() or (drawn > self.capacity * (1.0 + TOLERANCE)).any():
            return None
        return float(self.cost[agent, task].sum())


def instances(data: Path) -> dict[str, Instance]:
    """Every instance of a folder by its path in it, in order of these.

    Raises:
        InputError: a file that is no instance or has no best known value, or a folder without any.
    """
    table = data / TABLE
    if not table.is_file():
        raise InputError(f"{table}: there is no such file; it gives the best known value of each instance")
    best = _best_known(table)
    found = {}
    for path in sorted(data.rglob("*")):
        name = path.relative_to(data)
        if not path.is_file() or path == table or any(part.startswith(".") for part in name.parts):
            continue
        if name.as_posix() not in best:
            raise InputError(f"{path}: {table} has no row for {name.as_posix()}")
        found[name.as_posix()] = read(path, best[name.as_posix()])
    if not found:
        raise InputError(f"{data}: there are no instances in this folder")
    return found


def _best_known(table: Path) -> dict[str, float]:
    """The best known cost of each instance, by its path."""
    best = {}
    try:
        with table.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            for column in (PATH, BEST):
                if column not in (reader.fieldnames or ()):
                    raise InputError(f"{table}, line 1: there is no column {column!r}")
            for line in reader:
                value = _number(line[BEST] or "")
                if value is None or value <= 0.0:
                    where = f"{table}, line {reader.line_num}, {BEST}"
                    raise InputError(f"{where}: {line[BEST]!r} is no number above 0")
                best[line[PATH]] = value
    except UnicodeDecodeError as error:
        raise InputError(f"{table}: not a text file") from error
    except OSError as error:
        raise InputError(f"{table}: cannot be read: {error.strerror}") from error
    return best


def read(path: Path, best: float) -> Instance:
    """One instance from its file.

    Raises:
        InputError: the file cannot be read, or is not in the OR-Library's format.
    """
    try:
        words = path.read_text(encoding="utf-8").split()
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not a text file") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    numbers = []
    for word in words:
        number = _number(word)
        if number is None:
            raise InputError(f"{path}: {word!r} is no finite number")
        numbers.append(number)
    if len(numbers) < 2 or any(size < 1.0 or size != int(size) for size in numbers[:2]):
        raise InputError(f"{path}: it must begin with the numbers of agents and tasks, both at least 1")
    agents, tasks = int(numbers[0]), int(numbers[1])
    expected = 2 + 2 * agents * tasks + agents
    if len(numbers) != expected:
        raise InputError(f"{path}: {agents} agents and {tasks} tasks make {expected} numbers, not {len(numbers)}")
    cost, demand, capacity = np.split(np.array(numbers[2:]), [agents * tasks, 2 * agents * tasks])
    if (demand <= 0.0).any() or (capacity < 0.0).any():
        raise InputError(f"{path}: demands must be above 0, capacities at least 0")
    return Instance(cost.reshape(agents, tasks), demand.reshape(agents, tasks), capacity, best)


def _number(word: str) -> float | None:
    """A finite number; None where the word is none."""
    try:
        number = float(word)
    except ValueError:
        return None
    return number if np.isfinite(number) else None


def figures(data: Path) -> dict[str, float]:
    """Gaps to the best known, infeasible plans and decision times over all instances of a folder. See MEANING."""
    if not data.is_dir():
        raise InputError(f"{data}: not a folder of instances")
    loaded, matcher = instances(data), build(SETTINGS)
    _decide(matcher, next(iter(loaded.values())).problem())  # compiles
    gaps, certified, times, infeasible = [], [], [], 0
    for instance in loaded.values():
        problem = instance.problem()
        plans = [_decide(matcher, problem) for _ in range(REPEATS)]
        times.append(float(np.median([plan.decision_s for plan in plans])))
        cost = instance.total(plans[0].choice)
        if cost is None:
            infeasible += 1
            gaps.append(UNSOLVED)
            continue
        gaps.append((cost - instance.best) / instance.best)
        bound = float(instance.prize().sum()) - plans[0].bound
        certified.append((cost - bound) / bound if bound > 0.0 else np.inf)
    found = {
        "gap_mean": float(np.mean(gaps)),
        "gap_max": float(np.max(gaps)),
        "infeasible": float(infeasible),
        "decision_s_p50": float(np.median(times)),
        "decision_s_max": float(np.max(times)),
        "instances": float(len(loaded)),
    }
    if certified and np.isfinite(certified).all():
        found["certified_gap_mean"] = float(np.mean(certified))
    settings = SETTINGS.model_dump(exclude={"kind"})
    return found | {f"settings.{name}": float(value) for name, value in settings.items()}


def _decide(matcher: Matcher, problem: Problem) -> Plan:
    """A cold decision; the same each time."""
    return matcher.match(problem, np.zeros(problem.rows), stream(0, "gap"))
