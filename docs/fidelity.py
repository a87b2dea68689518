"""What each method equals, and where it differs on purpose: the data behind ``docs/fidelity.md``."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal, NamedTuple

Kind = Literal["code", "paper", "differs", "not verifiable"]
Aspect = Literal["update", "schedule", "derivation", "data", "retraining"]
ASPECTS: tuple[Aspect, ...] = ("update", "schedule", "derivation", "data", "retraining")


class Claim(NamedTuple):
    """How one aspect of a method stands to what was published.

    Args:
        kind: Equal to the official code, to the paper's text, different on purpose, or not verifiable.
        text: What, or why.
        test: The test that shows it, as ``file.py::name`` below ``tests``; needed for the first two kinds.
        official: What ``profiling/official.py`` calls the same beside a checkout of the official code, if it was run.
    """

    kind: Kind
    text: str = ""
    test: str = ""
    official: str = ""


def _code(test: str, text: str = "", official: str = "") -> Claim:
    return Claim("code", text, test, official)


def _paper(test: str, text: str = "") -> Claim:
    return Claim("paper", text, test)


def _differs(text: str, test: str = "", official: str = "") -> Claim:
    return Claim("differs", text, test, official)


_UPDATES, _LATER = "methods/test_updates.py::test_", "methods/test_later.py::test_"
_RECIPES, _FIDELITY = "methods/test_recipes.py::test_", "methods/test_fidelity.py::test_"
_STEP = "training/test_retraining_step.py::test_a_step_"

_SECOND = _code(
    f"{_UPDATES}second_order_as_published_is_a_difference_of_two_gradients",
    "with `by_differences=True`; exact by default, which differs in a third of the signs on a small network",
    "darts_2nd",
)
_COSINE = _code("mechanisms/test_schedules.py::test_the_search_of_darts_anneals_as_published")
_RAMPS = _code("mechanisms/test_schedules.py::test_temperatures_radii_and_rates_have_their_published_values")
_TOP_TWO = "mechanisms/test_derivation.py::test_none_is_never_derived_and_its_mass_is_not_shared_out"
_BLOCKS = _code("mechanisms/test_derivation.py::test_nasbench201_keeps_every_edge_and_may_derive_none")
_BY_NODES = _code(
    "mechanisms/test_derivation.py::test_edge_coefficients_rank_edges_but_do_not_choose_candidates", official="pc_darts"
)
_HALVES = _differs(
    "the split is random and balanced by class, alpha's batches are a permutation an epoch, and the last, incomplete "
    "batch is dropped unless `drop_last=False`",
    f"{_RECIPES}the_last_batch_stays_where_it_has_statistics",
)
_CIFAR = _code(
    f"{_STEP}on_cifar_drops_paths_and_hears_the_auxiliary_head", "the step of quark0/darts", official="retraining"
)
_SEPARATE = Claim("not verifiable", "its retraining is not compared; that of DARTS is at hand")
_UNCOMPARED = Claim("not verifiable", "its code was not compared")
_NO_CODE = Claim("not verifiable", "no official code is known")


def _row(
    update: Claim,
    schedule: Claim = _COSINE,
    derivation: Claim | None = None,
    data: Claim = _HALVES,
    retraining: Claim = _CIFAR,
) -> Mapping[Aspect, Claim]:
    """The row of a method, which derives as DARTS does if it does not say how."""
    as_darts = _code(_TOP_TWO, official=update.official) if update.official else _paper(_TOP_TWO, "the rule of DARTS")
    return {
        "update": update,
        "schedule": schedule,
        "derivation": derivation or as_darts,
        "data": data,
        "retraining": retraining,
    }


_EIGENVALUES = _code(
    "mechanisms/test_control.py::test_of_the_published_traces_as_many_stop_as_with_the_published_tracker",
    "40 of the 67 published traces stop; the paper's rule is the default",
    "eigenvalue_rule",
)

FIDELITY: Mapping[str, Mapping[Aspect, Claim]] = MappingProxyType(
    {
        "darts": _row(
            _code(f"{_FIDELITY}three_steps_of_first_order_darts_are_those_of_a_short_reference", official="darts")
        ),
        "single_darts": _row(
            _paper(f"{_UPDATES}single_level_moves_both_at_the_same_point"),
            _UNCOMPARED,
            _UNCOMPARED,
            data=_differs("all images train both; the code was not compared"),
            retraining=_SEPARATE,
        ),
        "darts_2nd": _row(_SECOND),
        "darts_plus": _row(
            _paper(f"{_UPDATES}first_order_descends_on_the_softmax_then_on_the_weights"),
            _paper("mechanisms/test_control.py::test_two_skips_in_the_normal_cell_stop_darts_plus"),
            retraining=_NO_CODE,
        ),
        "robust_darts": _row(_SECOND._replace(official="robust_darts"), _EIGENVALUES, retraining=_SEPARATE),
        "robust_darts_ada": _row(
            _SECOND._replace(official="robust_darts"),
            _differs(
                "after going back it forgets the abandoned epochs, which the code keeps by accident",
                "mechanisms/test_control.py::test_or_goes_back_with_ten_times_the_weight_decay_until_that_is_large",
            ),
            retraining=_SEPARATE,
        ),
        "robust_darts_l2": _row(_SECOND._replace(official="robust_darts_l2"), retraining=_SEPARATE),
        "robust_darts_dp": _row(
            _code(
                f"{_UPDATES}drop_path_drops_an_edge_for_an_image_and_scales_the_others",
                "with `by_differences=True`; exact by default",
                "robust_darts_dp",
            ),
            _RAMPS,
            retraining=_SEPARATE,
        ),
        "sharp_darts": _row(
            _paper(
                f"{_UPDATES}max_w_keeps_the_leader_at_one", "the gradient of the leader as the code was read, not run"
            ),
            _code("mechanisms/test_schedules.py::test_cosine_power_annealing_has_its_published_values"),
            data=_differs(
                "AutoAugment and cutout are those of the code; split and batches as for `darts`",
                f"{_RECIPES}sharp_darts_trains_as_published",
            ),
            retraining=_code(f"{_RECIPES}the_cosine_power_of_a_training_rises_in_equal_steps"),
        ),
        "smooth_darts_rs": _row(
            _code(
                f"{_UPDATES}smoothing_adds_uniform_noise_to_the_coefficients_of_the_weights", official="smooth_darts_rs"
            ),
            _RAMPS,
        ),
        "smooth_darts_adv": _row(
            _differs(
                "batch statistics in the ascent, where the code takes running ones; with those in both, equal",
                f"{_UPDATES}the_adversary_climbs_the_loss_of_the_weights_and_stays_within_the_radius",
                "smooth_darts_adv",
            ),
            _RAMPS,
        ),
        "p_darts": _row(
            _code(f"{_UPDATES}candidates_that_left_a_stage_take_no_part", official="p_darts"),
            _code(
                "mechanisms/test_schedules.py::test_p_darts_drops_skips_as_published_and_jumps_back_when_alpha_begins"
            ),
            _code(
                "mechanisms/test_derivation.py::test_the_skip_cap_leaves_the_strongest_skips_and_the_reduction_cell_alone"
            ),
        ),
        "snas": _row(
            _paper(f"{_UPDATES}snas_moves_both_on_one_soft_sample"),
            _RAMPS,
            _paper("mechanisms/test_derivation.py::test_snas_keeps_every_edge_that_is_not_best_left_out"),
            _differs("the resource term of the recipe is linear in the parameters; the code mixes three logarithms"),
            _SEPARATE,
        ),
        "gdas": _row(
            _differs(
                "candidates that did not run keep their weights, where the code lets decay and momentum go on",
                f"{_UPDATES}gdas_runs_one_candidate_and_differentiates_its_soft_sample",
            ),
            _RAMPS,
            _differs("the rule of DARTS; the code may choose an edge twice"),
            retraining=_SEPARATE,
        ),
        "parsec": _row(
            _paper(f"{_UPDATES}parsec_weighs_its_samples_by_their_likelihood"),
            _NO_CODE,
            _NO_CODE,
            retraining=_NO_CODE,
        ),
        "asap": _row(
            _paper(f"{_UPDATES}asap_divides_the_logits_by_a_falling_temperature"),
            _paper("mechanisms/test_pruning.py::test_asap_removes_what_fell_below_two_fifths_of_an_even_share"),
            _NO_CODE,
            retraining=_NO_CODE,
        ),
        "nasp": _row(
            _code(
                f"{_UPDATES}nasp_takes_the_gradient_at_the_discretised_point_and_clips_to_the_box",
                "with `published_for=`, on a PyTorch whose `zero_grad` leaves idle candidates alone, as the library "
                "does (that of its day let decay and momentum go on); the paper's projection is the default, with "
                "noise of 1e-3 on alpha, since a tie chooses `none` in the spaces of other papers",
                "nasp",
            ),
            derivation=_code(
                "mechanisms/test_draw.py::test_the_published_projection_keeps_two_edges_of_every_node",
                "the projection of the code with `published_for=`",
            ),
            retraining=_SEPARATE,
        ),
        "dso_nas": _row(
            _paper(f"{_UPDATES}dso_nas_thresholds_its_scalings_softly", "its code is in MXNet: read, not run"),
            _paper(
                f"{_FIDELITY}dso_nas_prunes_at_the_rate_of_the_weights",
                "one constant rate: 6 of 256 scalings of `dso` are zero after 20 epochs of the digits, none by default",
            ),
            _paper(
                "mechanisms/test_derivation.py::test_an_edge_of_dso_nas_is_left_out_where_all_of_its_scalings_are_zero"
            ),
            retraining=_SEPARATE,
        ),
        "proxyless_nas": _row(
            _differs(
                "where the active path of a block is `none`, the code drops the gradient of its logits; other "
                "steps are equal, by two paths and by all gates (`proxyless_nas_all_gates`)",
                f"{_UPDATES}proxyless_moves_the_pair_that_ran_and_keeps_its_probability",
                "proxyless_nas",
            ),
            _differs(
                "the rate changes with the epoch, in the code with every step",
                "mechanisms/test_schedules.py::test_proxyless_warms_up_by_a_cosine_of_its_own",
            ),
            _BLOCKS,
            _differs(
                "the search smooths no labels and trains alpha on random crops; colours are those of the code",
                f"{_RECIPES}colours_on_imagenet_are_those_of_each_method",
            ),
            _code(f"{_STEP}of_proxyless_looks_ahead_and_spares_normalisation_of_decay"),
        ),
        "proxyless_nas_r": _row(
            _differs(
                "the baseline leaves a draw's own reward out; the code makes 300 updates after each epoch, on 1,000 "
                "images, and ours are spread over it",
                f"{_UPDATES}reinforce_moves_towards_what_was_worth_more_than_the_others",
            ),
            _code("mechanisms/test_schedules.py::test_proxyless_warms_up_by_a_cosine_of_its_own", "a rate an epoch"),
            _BLOCKS,
            _differs("as `proxyless_nas`", f"{_RECIPES}colours_on_imagenet_are_those_of_each_method"),
            _code(f"{_STEP}of_proxyless_looks_ahead_and_spares_normalisation_of_decay"),
        ),
        "pc_darts": _row(
            _code(f"{_UPDATES}pc_darts_weighs_edges_by_a_softmax_at_each_node", official="pc_darts"),
            derivation=_BY_NODES,
        ),
        "pc_darts_imagenet": _row(
            _code(f"{_UPDATES}pc_darts_weighs_edges_by_a_softmax_at_each_node"),
            _code("mechanisms/test_schedules.py::test_warm_up_rises_to_the_initial_rate_and_then_follows_the_schedule"),
            _BY_NODES,
            _differs(
                "no colours in the search, as in the code; split and batches as for `darts`",
                f"{_RECIPES}colours_on_imagenet_are_those_of_each_method",
            ),
            _code(f"{_STEP}on_imagenet_smooths_labels_and_warms_up"),
        ),
        "darts_nasbench201": _row(
            _differs(
                "the code adds what alpha's last step left behind to the norm that clips the weights' gradient; "
                "without that, equal",
                f"{_FIDELITY}a_norm_that_includes_alpha_shortens_the_step_of_the_weights",
                "darts_nasbench201",
            ),
            derivation=_BLOCKS._replace(official="darts_nasbench201"),
            retraining=Claim("not verifiable", "accuracies come from the benchmark's table"),
        ),
        "gdas_nasbench201": _row(
            _differs(
                "as `darts_nasbench201`; without that, equal",
                f"{_UPDATES}gdas_runs_one_candidate_and_differentiates_its_soft_sample",
                "gdas_nasbench201",
            ),
            _code(f"{_FIDELITY}the_benchmark_moves_the_weights_first_and_clips_them_with_alpha"),
            _BLOCKS._replace(official="gdas_nasbench201"),
            retraining=Claim("not verifiable", "accuracies come from the benchmark's table"),
        ),
        "spos": _row(
            _paper(f"{_LATER}spos_steps_along_single_uniform_paths_and_alpha_stays"),
            _differs("a cosine by default; the code has a straight line: `--weight-schedule linear`"),
            derivation=_paper(
                "mechanisms/test_choice.py::test_evolution_finds_better_paths_than_as_many_random_ones",
                "paths are ranked by loss and batch statistics; the code recomputes running ones",
            ),
            retraining=Claim("not verifiable", "its space of shuffle blocks is not here"),
        ),
        "drnas": _row(
            _paper(
                f"{_LATER}drnas_samples_dirichlet_coefficients_and_differentiates_their_quantiles",
                "the code differentiates the samples in another way, with the same expectation",
            ),
            _differs("no progressive widening of the partial channels"),
            _differs("edges are ranked by the softmax of alpha as in the code, but `none` is never derived"),
            retraining=_SEPARATE,
        ),
        "gaea": _row(
            _paper(
                f"{_LATER}gaea_is_exponentiated_gradient_on_the_coefficients", "the code holds coefficients above 1e-5"
            ),
            _differs("edge weights are not learned by exponentiated gradient"),
            data=_differs("one level by default, as the paper's best in NAS-Bench-201; the code's default has two"),
            retraining=_SEPARATE,
        ),
        "beta_darts": _row(
            _code(
                f"{_LATER}beta_decay_adds_the_mean_of_the_log_sum_exp",
                "in NAS-Bench-201, but for the norm that clips, to which the code adds the coefficients' gradient",
                "beta_darts",
            ),
            _differs("the weight reaches its end in a search of any length; in the code it is half the epoch's number"),
            _BLOCKS._replace(text="in NAS-Bench-201", official="beta_darts"),
            retraining=_SEPARATE,
        ),
        "fair_darts": _row(
            _code(f"{_LATER}fair_darts_descends_through_sigmoids_and_towards_zero_or_one", official="fair_darts"),
            derivation=_differs(
                "the best edge of a node stays also below the threshold",
                f"{_LATER}fair_darts_keeps_what_is_above_its_threshold_and_an_edge_of_each_node",
            ),
            retraining=_SEPARATE,
        ),
        "darts_minus": _row(
            _differs(
                "at stride 2 the auxiliary skip connection shares the weights of the one to choose; else equal",
                f"{_LATER}darts_minus_adds_a_skip_connection_that_fades",
                "darts_minus",
            ),
            retraining=_SEPARATE,
        ),
        "oles": _row(
            _differs(
                "the two gradients are taken at the same weights and as one vector each",
                f"{_LATER}oles_freezes_candidates_whose_gradients_disagree",
            ),
            retraining=_SEPARATE,
        ),
        "lambda_darts": _row(
            _paper(
                f"{_LATER}lambda_darts_climbs_the_agreement_of_its_cells",
                "exact by default; with `radius=1e-4` by differences, as the code was read, not run",
            ),
            retraining=_SEPARATE,
        ),
    }
)
"""By the names of methods, in the order of the page."""
