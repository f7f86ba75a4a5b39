"""GET /evaluation"""

from __future__ import annotations

import math

import msgspec
from fastapi import APIRouter

from service.api.guard import needs
from service.api.routes.policies import finding_response
from service.api.state import Shared
from service.contract.operator import ArmReport, EvaluationResponse, PowerResponse, ShadowResponse
from service.store.worker_report import ArmTotals

router = APIRouter(tags=["policies"], route_class=needs("admin"))


def interval(totals: ArmTotals) -> ArmReport:
    """Mean reward per impression with a 95% normal interval; all zero before the first impression."""
    n = totals.impressions
    if n == 0:
        return ArmReport(impressions=0, reward_mean=0.0, reward_low=0.0, reward_high=0.0)
    mean = totals.reward / n
    variance = max(0.0, totals.reward_squared / n - mean**2) * n / max(1, n - 1)
    half = 1.96 * math.sqrt(variance / n)
    return ArmReport(impressions=n, reward_mean=mean, reward_low=mean - half, reward_high=mean + half)


@router.get("/evaluation")
async def evaluation(state: Shared) -> EvaluationResponse:
    """Compare the arms' rewards, with the newest version's off-policy estimate and the findings of the watch."""
    report = await state.worker_report()
    if report is None:
        return EvaluationResponse(
            arms={}, placements={}, off_policy={}, shadow=None, watch=[], power=None, alignment={}
        )
    arms = {arm: interval(totals) for arm, totals in report.arms.items()}
    placements = {
        name: {arm: interval(totals) for arm, totals in of.items()} for name, of in sorted(report.placements.items())
    }
    watch = [finding_response(finding) for finding in report.findings]
    shadow = ShadowResponse(**msgspec.structs.asdict(report.shadow)) if report.shadow else None
    power = PowerResponse(**msgspec.structs.asdict(report.power)) if report.power else None
    return EvaluationResponse(
        arms=arms,
        placements=placements,
        off_policy=report.off_policy,
        shadow=shadow,
        watch=watch,
        power=power,
        alignment=report.alignment,
    )
