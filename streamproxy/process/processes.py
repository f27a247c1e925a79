"""The ``process_*`` metrics of several processes combined.

They are sums, except for the start time (the earliest) and the limit on descriptors (the lowest, because each process
has its own). The CPU time of exited children is counted by the system, so the sum never decreases.
"""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterable, Iterator

from prometheus_client import ProcessCollector
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

_CPU = "process_cpu_seconds"
_LEAST = frozenset({"process_start_time_seconds", "process_max_fds"})


class Processes(Collector):
    """This process, and the processes whose ids ``children`` returns."""

    def __init__(self, children: Callable[[], Iterable[int]]) -> None:
        self._children = children
        self._pid: int | str = "self"
        self._one = ProcessCollector(pid=lambda: self._pid, registry=None)

    def collect(self) -> Iterator[Metric]:
        metrics = self._of("self")
        for child in self._children():
            for name, more in self._of(child).items():
                if name in metrics:
                    choose = min if name in _LEAST else _sum
                    _set(metrics[name], choose(_value(metrics[name]), _value(more)))
        if _CPU in metrics:
            ended = resource.getrusage(resource.RUSAGE_CHILDREN)
            _set(metrics[_CPU], _value(metrics[_CPU]) + ended.ru_utime + ended.ru_stime)
        yield from metrics.values()

    def _of(self, pid: int | str) -> dict[str, Metric]:
        self._pid = pid
        return {metric.name: metric for metric in self._one.collect()}


def _sum(one: float, other: float) -> float:
    return one + other


def _value(metric: Metric) -> float:
    return float(metric.samples[0].value)


def _set(metric: Metric, value: float) -> None:
    metric.samples = [metric.samples[0]._replace(value=value)]
