"""The three answers: against scikit-learn, by counting, and as files hold them."""

import json
import math
from dataclasses import asdict, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from kinembed.checked import Values
from kinembed.errors import DataError, KinembedError
from kinembed.evaluation.three_way import (
    EQUAL,
    KIN,
    SAME,
    UNRELATED,
    ThreeWay,
    fit_three_way,
    log_loss,
    priors_of,
)
from kinembed.heads.pooled_people import PersonScores

CENTRES = {SAME: (2.0, 0.1), KIN: (1.0, -0.2), UNRELATED: (-1.0, -0.3)}


def sample(seed: int, count: int) -> tuple[np.ndarray, PersonScores]:
    rng = np.random.default_rng(seed)
    kinds = rng.choice(3, size=count, p=[0.2, 0.3, 0.5])
    centres = np.array([CENTRES[kind] for kind in kinds.tolist()])
    amount = np.log(rng.integers(1, 6, count))
    noise = rng.standard_normal((count, 2)) * [1.5, 0.2]  # so the log odds are linear
    found = centres + noise
    return kinds, PersonScores(found[:, 0], found[:, 1], amount)


KINDS, SCORES = sample(0, 3000)
FITTED = fit_three_way(KINDS, SCORES, 60)


def features(scores: PersonScores) -> np.ndarray:
    return np.array(
        [
            [s, x, a, s * a, x * a]
            for s, x, a in zip(scores.logits, scores.likeness, scores.amount, strict=True)
        ]
    )


@pytest.mark.parametrize(("name", "one", "other"), [("kin", KIN, UNRELATED), ("same", SAME, KIN)])
def test_the_log_odds_are_those_of_scikit_learn(name: str, one: int, other: int) -> None:
    chosen = (one == KINDS) | (other == KINDS)
    model = LogisticRegression(C=1e9, max_iter=5000, tol=1e-10, class_weight="balanced")
    model.fit(features(SCORES)[chosen], KINDS[chosen] == one)
    wanted = model.decision_function(features(SCORES))
    found = FITTED.evidence(SCORES) if name == "kin" else FITTED.same_evidence(SCORES)
    assert found == pytest.approx(wanted, rel=0.02, abs=0.05)


def test_probabilities_are_by_bayes_and_add_up() -> None:
    priors = (0.1, 0.3)
    found = FITTED.probabilities(SCORES, priors)
    assert found.sum(1) == pytest.approx(np.ones(len(SCORES)), abs=1e-12)
    for row in range(0, 3000, 251):
        pair = SCORES.at(np.arange(3000) == row)
        kin = math.exp(FITTED.evidence(pair)[0])
        same = kin * math.exp(FITTED.same_evidence(pair)[0])
        masses = [0.1 * same, 0.3 * kin, 0.6]
        assert found[row] == pytest.approx([mass / sum(masses) for mass in masses], rel=1e-9)


def test_probabilities_are_calibrated_where_the_model_holds() -> None:
    kinds, scores = sample(1, 20_000)
    found = FITTED.probabilities(scores, (0.2, 0.3))
    for kind in range(3):
        for low in (0.1, 0.4, 0.7):
            inside = (found[:, kind] >= low) & (found[:, kind] < low + 0.3)
            assert np.mean(kinds[inside] == kind) == pytest.approx(
                found[inside, kind].mean(), abs=0.06
            )
    own = [-math.log(found[row, kind]) for row, kind in enumerate(kinds.tolist())]
    wanted = np.mean([np.mean([o for o, k in zip(own, kinds) if k == kind]) for kind in range(3)])
    assert log_loss(kinds, found) == pytest.approx(wanted, rel=1e-9)


@settings(max_examples=50, deadline=None)
@given(st.floats(-1e3, 1e3), st.floats(-2, 2), st.floats(0, 4), st.floats(0.01, 0.98))
def test_a_larger_share_of_kin_never_lowers_their_probability(
    logit: float, likeness: float, amount: float, share: float
) -> None:
    pair = PersonScores(*(np.array([value]) for value in (logit, likeness, amount)))
    low, high = (FITTED.probabilities(pair, priors_of(each))[0] for each in (share, share + 0.01))
    assert high[KIN] >= low[KIN] - 1e-12
    assert low.sum() == pytest.approx(1) and (low >= 0).all()


def test_far_is_the_share_of_unrelated_pairs_with_as_much_evidence() -> None:
    unrelated = SCORES.at(KINDS == UNRELATED)
    evidence = FITTED.evidence(unrelated)
    for row in range(0, len(unrelated), 97):
        pair = unrelated.at(np.arange(len(unrelated)) == row)
        share = np.mean(evidence >= evidence[row])
        assert FITTED.far(pair)[0] == pytest.approx(share, rel=0.08)
    surest = PersonScores(np.array([1e6]), np.array([9.0]), np.array([0.0]))
    least = PersonScores(np.array([-1e6]), np.array([-9.0]), np.array([0.0]))
    assert FITTED.far(surest)[0] == pytest.approx(1 / len(unrelated))
    assert FITTED.far(least)[0] == pytest.approx(1)


def test_a_kind_without_pairs_and_wrong_priors_are_refused() -> None:
    with pytest.raises(DataError, match="no pairs that are same person"):
        fit_three_way(np.full(3000, KIN), SCORES, 1)
    for priors in ((0.0, 0.5), (0.5, 0.5), (0.2, -0.1), (0.6, 0.6), (math.nan, 0.1)):
        with pytest.raises(KinembedError, match="prior: found"):
            FITTED.probabilities(SCORES, priors)
    for share in (0.0, 1.0, -1.0, math.nan, math.inf):
        with pytest.raises(KinembedError, match="prior: found"):
            priors_of(share)
    assert priors_of(None) == EQUAL and priors_of(0.5) == (0.25, 0.5)


def test_a_file_holds_it_and_nothing_else_is_read() -> None:
    kept = replace(FITTED, estimates={"ece": 0.02})
    about = json.loads(json.dumps(asdict(kept)))
    assert ThreeWay.read(Values(about)) == kept
    broken = [
        ("kin", about["kin"][:-1], "5 and 6 numbers"),
        ("same", [*about["same"], 1.0], "at most 6"),
        ("same", ["1", *about["same"][1:]], "same"),
        ("shares", about["shares"][::-1], "do not rise"),
        ("shares", [*about["shares"][:-1], 0.9], "do not rise to 1"),
        ("shares", about["shares"][1:], "127 shares of 128"),
        ("evidence_of_unrelated", about["evidence_of_unrelated"][::-1], "do not rise"),
        ("pairs", [1, 2], "pairs: found 2"),
        ("people", -1, "people: found -1"),
        ("estimates", {"ece": math.inf}, "ece"),
        ("extra", 1, "extra"),
    ]
    for key, value, problem in broken:
        with pytest.raises(ValueError, match=problem):
            ThreeWay.read(Values({**about, key: value}))
