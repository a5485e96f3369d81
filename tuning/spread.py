"""An attempt at a trial over several nodes: one Attempt per node, each in a bundle of the trial's placement group.

The Ray worker of the trial is on node 0, where all files are written. On each other node it has an agent, an actor that
supervises the ranks of that node. Ray ends the agents when that worker ends, and an agent's ranks end with the agent.
"""

from __future__ import annotations

import itertools
import re
import sys
import threading
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from pipeline.nodes import Node, reserve
from tuning.attempt import POLL, Attempt, prepare
from tuning.trial_spec import TrialSpec

GRACE = 5.0  # seconds that the other nodes have to report their causes after one has failed
STOP = 5.0  # seconds that an agent has to stop its ranks before Ray kills it
# Causes on a node whose ranks only lost those of another node: `launcher.launch` names them so.
FOLLOWS = re.compile(r"lost the connection to another rank|ended by SIGABRT")


class NodeAgent:
    """Supervises the ranks of one node; an actor with two threads, so that `stop` reaches it during `run`."""

    def __init__(self) -> None:
        self.lock, self.stopped = threading.Lock(), 0
        self.attempt: Attempt | None = None

    def run(self, number: int, folder: Path, spec: TrialSpec, node: Node) -> str:
        """Train the ranks of this node; return the cause of a failure, empty if they have finished or were stopped.

        Args:
            number: Number of the attempt, counted from 1.
            folder: The trial's run folder.
            spec: What to train.
            node: The node of this agent.
        """
        if not folder.is_dir():
            return f"settings: {folder} is missing on node {node.number}: --out must be on storage that all nodes share"
        with self.lock:
            if self.stopped >= number:
                return ""
            attempt = self.attempt = Attempt(folder, spec, None, node)
        while (cause := attempt.cause()) is None:
            time.sleep(POLL)
        return cause

    def stop(self, number: int) -> None:
        """End the ranks of the attempt `number`, and do not start them later."""
        with self.lock:
            self.stopped = number
            if self.attempt is not None:
                self.attempt.stop()


class SpreadAttempt(Attempt):
    """An attempt whose ranks are divided among this node and those of the agents.

    Args:
        folder: The trial's run folder, on storage that all nodes share; it is created.
        spec: What to train.
        limit: Seconds until the attempt is stopped; None means no limit.
        others: The agents of the other nodes.
    """

    def __init__(self, folder: Path, spec: TrialSpec, limit: float | None, others: Sequence[Any]) -> None:
        import ray

        self.others, self.number = others, next(_numbers)
        host, count = ray.util.get_node_ip_address(), len(others) + 1
        prepare(folder, spec)
        with reserve(host) as listener:
            nodes = [Node(number, count, host, listener.getsockname()[1]) for number in range(count)]
            self.running = [
                agent.run.remote(self.number, folder, spec, node).future()
                for agent, node in zip(others, nodes[1:], strict=True)
            ]
            super().__init__(folder, spec, limit, nodes[0], listener)

    def cause(self) -> str | None:
        """Return why the attempt has failed; empty if it has finished, None while it goes on.

        After a failure on one node all are stopped. The cause is that of the first node whose ranks did not merely lose
        those of another one.
        """
        causes = self._causes()
        if causes[0] == "" or not any(causes):
            return causes[0]
        deadline = time.monotonic() + GRACE
        while None in causes and time.monotonic() < deadline:
            time.sleep(POLL)
            # A node that was stopped at the time limit would now be one that was killed.
            causes = [now if known is None else known for known, now in zip(causes, self._causes(), strict=True)]
        self.stop()
        return root_cause(causes)

    def _causes(self) -> list[str | None]:
        """Return `Attempt.cause` of each node."""
        return [super().cause(), *map(_cause, self.running, range(1, len(self.running) + 1))]

    def stop(self) -> None:
        """Kill the child and its ranks on all nodes; an agent that does not do so in time is killed with them."""
        import ray

        stopping = [agent.stop.remote(self.number) for agent in self.others]
        super().stop()
        done, _ = ray.wait(stopping, num_returns=len(stopping), timeout=STOP)
        end([agent for agent, stopped in zip(self.others, stopping, strict=True) if stopped not in done])


def root_cause(causes: Iterable[str | None]) -> str:
    """Return the first cause that is not merely the loss of another node's ranks; else the first one."""
    return min(filter(None, causes), key=lambda cause: bool(FOLLOWS.search(cause)))


_numbers = itertools.count(1)


def _cause(running: Future[str], number: int) -> str | None:
    """Return `Attempt.cause` of a node from its agent's answer; if the agent is lost, so is the node."""
    if not running.done():
        return None
    try:
        return running.result()
    except Exception as error:  # Ray's, or that of the agent
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        return f"worker lost: node {number}: {lines[0] if lines else type(error).__name__}"


def start(folder: Path, spec: TrialSpec, limit: float | None, nodes: int, agents: list[Any]) -> Attempt:
    """Start an attempt on this node or, with its agents, on several.

    Args:
        folder: The trial's run folder.
        spec: What to train.
        limit: Seconds until the attempt is stopped; None means no limit.
        nodes: Number of nodes.
        agents: Those of earlier attempts of this worker; empty at first, then filled.
    """
    if nodes == 1:
        return Attempt(folder, spec, limit)
    if not agents:
        agents += _agents(nodes)
    return SpreadAttempt(folder, spec, limit, agents)


def _agents(nodes: int) -> list[Any]:
    """Start the agents of a trial over so many nodes: one in each bundle of its placement group but the first."""
    import ray
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    group = ray.util.get_current_placement_group()
    assert group is not None
    made = []
    for index in range(1, nodes):
        bundle = group.bundle_specs[index]
        place = PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=index)
        actor = ray.remote(num_cpus=bundle.get("CPU", 0), num_gpus=bundle.get("GPU", 0))(NodeAgent)
        made.append(actor.options(scheduling_strategy=place, max_concurrency=2).remote())
    return made


def end(agents: Sequence[Any]) -> None:
    """Kill agents; their ranks end with them."""
    import ray

    for agent in agents:
        ray.kill(agent)


def report_missing_nodes(nodes: int) -> None:
    """Print a note if the cluster has fewer nodes than a trial needs: its trials wait until others have joined."""
    import ray

    alive = sum(node["Alive"] for node in ray.nodes())
    if alive < nodes:
        print(
            f"note: the cluster has {alive} of the {nodes} nodes per trial; trials wait for the rest", file=sys.stderr
        )
