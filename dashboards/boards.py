"""Every dashboard there is."""

from __future__ import annotations

from typing import Final

from dashboards.cost import COST
from dashboards.fleet import FLEET
from dashboards.guardrails import GUARDRAILS
from dashboards.keys import KEYS
from dashboards.overview import OVERVIEW
from dashboards.performance import PERFORMANCE

BOARDS: Final = (OVERVIEW, GUARDRAILS, KEYS, PERFORMANCE, COST, FLEET)
