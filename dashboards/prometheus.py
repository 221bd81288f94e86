"""A real Prometheus with the configuration that is shipped, and questions to it."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import aiohttp
import yaml
from egret_tools.devstack.processes import Children, PartError, Program, free_port, until_ready

SHIPPED: Final = Path(__file__).parents[1] / "deploy" / "prometheus" / "prometheus.yaml"
LOOPBACK: Final = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Series:
    """One line of a panel: seconds since the epoch and values."""

    labels: Mapping[str, str]
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True)
class Prometheus:
    """A client of one that runs."""

    client: aiohttp.ClientSession

    async def now(self, expression: str) -> list[Series]:
        """Evaluate *expression* at this moment."""
        result = await self._ask("query", query=expression)
        return [
            Series(one["metric"], ((one["value"][0], float(one["value"][1])),)) for one in result
        ]

    async def between(
        self, expression: str, start: float, end: float, *, step: float
    ) -> list[Series]:
        """Evaluate *expression* again and again."""
        times = {"start": f"{start}", "end": f"{end}", "step": f"{step}"}
        return [
            Series(one["metric"], tuple((at, float(value)) for at, value in one["values"]))
            for one in await self._ask("query_range", query=expression, **times)
        ]

    async def trace_ids(self, expression: str, start: float, end: float) -> set[str]:
        """Return the traces that the buckets behind *expression* lead to."""
        times = {"start": f"{start}", "end": f"{end}"}
        return {
            exemplar["labels"]["trace_id"]
            for series in await self._tell("query_exemplars", query=expression, **times)
            for exemplar in series["exemplars"]
        }

    async def rules(self) -> list[dict[str, Any]]:
        """Return every rule with its health."""
        async with self.client.get("/api/v1/rules") as answer:
            groups = (await answer.json())["data"]["groups"]
        return [rule for group in groups for rule in group["rules"]]

    async def _ask(self, what: str, **form: str) -> list[dict[str, Any]]:
        result: list[dict[str, Any]] = (await self._tell(what, **form))["result"]
        return result

    async def _tell(self, what: str, **form: str) -> Any:
        async with self.client.post(f"/api/v1/{what}", data=form) as answer:
            told = await answer.json()
        if told["status"] != "success":
            raise ValueError(f"{form['query']}: {told['error']}")
        return told["data"]


@asynccontextmanager
async def running_prometheus(
    place: Path, *, targets: Mapping[str, str], scrape_seconds: float
) -> AsyncIterator[Prometheus]:
    """Run it in *place* until the block ends; *targets* are `host:port` by the job's name.

    Raises:
        PartError: it does not come up.
    """
    program = shutil.which("prometheus")
    if program is None:
        raise PartError("Prometheus", "it is not installed", hint="make system")
    config = place / "prometheus.yaml"
    config.write_text(_configuration(targets, scrape_seconds), encoding="utf-8")
    address = f"{LOOPBACK}:{free_port()}"
    command = (
        program,
        f"--config.file={config}",
        f"--storage.tsdb.path={place / 'tsdb'}",
        f"--web.listen-address={address}",
        "--log.level=warn",
        "--enable-feature=exemplar-storage",
    )
    run = Program(part="Prometheus", command=command, log=place / "prometheus.log", environment={})
    async with (
        Children().running(run) as child,
        aiohttp.ClientSession(f"http://{address}") as client,
    ):

        async def is_ready() -> bool:
            try:
                async with client.get("/-/ready") as answer:
                    return answer.ok
            except aiohttp.ClientError:
                return False

        await until_ready(child, is_ready)
        yield Prometheus(client)


def _configuration(targets: Mapping[str, str], scrape_seconds: float) -> str:
    """Return what is shipped, with these targets and no patience."""
    config = yaml.safe_load(SHIPPED.read_text(encoding="utf-8"))
    every = f"{round(scrape_seconds * 1000)}ms"
    config["global"] = {"scrape_interval": every, "evaluation_interval": every}
    config["rule_files"] = [str(SHIPPED.parent / file) for file in config["rule_files"]]
    for job in config["scrape_configs"]:
        job["static_configs"] = [{"targets": [targets[job["job_name"]]]}]
    return yaml.safe_dump(config)
