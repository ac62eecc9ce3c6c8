"""What a check of mixed prompts says, each claim beside its null."""

from ...bayes import Agreement, RetrievalCheck


def claims(check: RetrievalCheck, control: RetrievalCheck) -> list[dict]:
    """What a check says at its layer, each claim with its interval, its null and a verdict."""
    name, layer = check.noise_models[0], check.layer
    weights = check.weight_agreement[name].at_layer(layer)
    outputs = check.weight_agreement["behaviour"].at_layer(layer)
    written = check.injection_agreement
    best = min((k for k in written if k != "combination"), key=lambda k: float(written[k].distance))
    low, high = check.residual_share.interval[layer].tolist()
    nulls = {
        c: float(check.null[c, "residual share"][layer].quantile(0.05)) for c in check.controls
    }
    nearest = min(nulls, key=nulls.__getitem__)
    others = {c: float(check.null[c, "correlation"][layer].quantile(0.95)) for c in check.controls}
    unlearnt = control.weight_agreement[name].correlation.max()
    others["best layer of scrambled weights"] = float(unlearnt)
    rival = max(others, key=others.__getitem__)
    return [
        _claim(
            "share of the state that convex combinations leave",
            (float(check.residual_share.values[layer]), low, high),
            (nearest, nulls[nearest]),
            high < nulls[nearest],
        ),
        _claim(
            f"correlation of weights and posterior ({name})",
            _number(weights, "correlation"),
            (rival, others[rival]),
            float(weights.correlation_interval[0]) > others[rival],
        ),
        _nearer(f"distance of weights and posterior ({name})", weights),
        _nearer("distance of weights and behaviour", outputs),
        *(
            _nearer(f"distance of behaviour and posterior ({k})", found)
            for k, found in check.behaviour_agreement.items()
        ),
        _claim(
            "distance of outputs from the combination written in",
            _number(written["combination"], "distance"),
            (best, float(written[best].distance)),
            float(written["combination"].distance_interval[1])
            < float(written[best].distance_interval[0]),
        ),
    ]


def _claim(
    claim: str,
    number: tuple[float, float, float],
    null: tuple[str, float],
    holds: bool,
) -> dict:
    value, low, high = number
    row = {"claim": claim, "value": value, "low": low, "high": high}
    return row | {"null": null[0], "null value": null[1], "holds": "yes" if holds else "no"}


def _number(found: Agreement, measure: str) -> tuple[float, float, float]:
    return float(getattr(found, measure)), *getattr(found, f"{measure}_interval").tolist()


def _nearer(claim: str, found: Agreement) -> dict:
    """Whether weights are nearer to the reference than weights that are all alike."""
    holds = float(found.distance_interval[1]) < found.uniform_distance
    return _claim(
        claim, _number(found, "distance"), ("uniform weights", found.uniform_distance), holds
    )
