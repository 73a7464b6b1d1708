"""The regulation's articles and the rows of its Annex."""

from fractions import Fraction

from sluice.domain.records.authorization import ScaExemption
from sluice.domain.sca import ARTICLES, MEANINGS, OUT_OF_SCOPE, THRESHOLDS


def test_each_exemption_has_the_article_that_grants_it_and_the_rest_is_out_of_scope():
    assert sorted(ARTICLES.values()) == [11, 12, 13, 14, 15, 16, 17, 18]
    assert {"merchant_initiated", "moto", "one_leg"} == OUT_OF_SCOPE
    assert set(MEANINGS) == set(ScaExemption)


def test_the_annex_allows_less_fraud_for_higher_amounts():
    percent = [(one.etv_eur, Fraction(one.reference_rate_ppm, 10_000)) for one in THRESHOLDS]
    assert percent == [(100, Fraction("0.13")), (250, Fraction("0.06")), (500, Fraction("0.01"))]
