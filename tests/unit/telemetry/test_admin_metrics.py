from __future__ import annotations

from prometheus_client import CollectorRegistry, generate_latest

from sidecar.telemetry.admin_metrics import AdminMetrics


def test_requests_sign_ins_and_messages_are_counted_from_zero() -> None:
    """A rate needs the zero before the first; requests have too many labels for that."""
    metrics = AdminMetrics(CollectorRegistry())
    metrics.answered("/api/v1/keys/{key_id}", "GET", 404)
    metrics.sign_in_refused("token")
    metrics.alert_sent(is_delivered=False)

    page = generate_latest(metrics.registry).decode()

    assert (
        'egret_admin_requests_total{method="GET",route="/api/v1/keys/{key_id}",status="404"} 1.0'
    ) in page
    assert 'egret_admin_sign_ins_refused_total{by="token"} 1.0' in page
    assert 'egret_admin_sign_ins_refused_total{by="oidc"} 0.0' in page
    assert 'egret_alert_messages_total{outcome="failed"} 1.0' in page
    assert 'egret_alert_messages_total{outcome="delivered"} 0.0' in page
