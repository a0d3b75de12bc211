"""Which test holds each of the nineteen invariants of a plan; a test that is gone or renamed is missed here."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

HERE = Path(__file__).parent
PLAN, LAYER, ABSTRACT, RECALL = "test_plan.py", "test_layer.py", "test_abstract.py", "test_recall.py"

VALID = (PLAN, "test_every_plan_is_valid_and_within_its_limit")
COUNTED = (PLAN, "test_plans_behind_a_count_are_valid_and_within_the_limit")
ACCOUNTED = (PLAN, "test_every_turn_is_accounted_for")
BOUND = (PLAN, "test_bound_thinking_stays_behind_its_own_prefix")
SEGMENTS = (PLAN, "test_segments_say_what_they_cover_and_who_made_them")

INVARIANTS: dict[str, list[tuple[str, str]]] = {
    "1. a result directly follows its call, and each call has one": [
        VALID,
        COUNTED,
        (LAYER, "test_a_broken_history_is_mended_on_the_wire"),
    ],
    "2. calls with their results, and a thinking loop, are kept or dropped as one": [
        VALID,
        BOUND,
        (LAYER, "test_a_tool_loop_stays_whole_on_anthropic_s_wire"),
    ],
    "3. system messages neither move nor shrink; the summary is the user's voice": [VALID, ACCOUNTED],
    "4. the first message is the user's, and none is empty": [VALID, COUNTED],
    "5. the newest request survives, or a typed error says why not": [
        VALID,
        (PLAN, "test_one_tool_output_over_the_limit_is_clamped_and_says_so"),
        (PLAN, "test_a_request_that_cannot_fit_is_refused_with_its_numbers"),
    ],
    "6. thinking is byte for byte what it was, or left out with all that is bound after it": [BOUND],
    "7. images, files and a provider's own items pass through as they came": [
        ACCOUNTED,
        (LAYER, "test_a_long_conversation_is_packed_and_its_bytes_are_kept"),
    ],
    "8. a provider's compaction item stays, with all after it": [
        (PLAN, "test_a_provider_s_own_summary_pins_the_cut")
    ],
    "9. input, output and margin fit the window": [(PLAN, "test_input_output_and_margin_fit_the_window")],
    "10. never over the limit by the exact count, or by an upper bound": [VALID, COUNTED],
    "11. counts are anchored on the provider's": [
        (PLAN, "test_a_count_of_the_provider_is_gone_on_from"),
        (PLAN, "test_the_provider_s_count_decides_when_to_compact"),
        (LAYER, "test_a_conversation_goes_on_from_what_its_provider_counted"),
    ],
    "12. between compactions a request begins with all of the one before": [
        COUNTED,
        (PLAN, "test_requests_grow_by_appending_between_compactions"),
        (LAYER, "test_a_growing_conversation_keeps_its_prefix"),
    ],
    "13. the same log gives the same bytes; mending is idempotent": [
        (PLAN, "test_a_plan_is_the_same_twice_and_as_json"),
        (PLAN, "test_what_is_sent_needs_no_more_mending"),
        (PLAN, "test_another_process_sends_the_same"),
    ],
    "14. a compaction frees enough, or does not take place": [
        (PLAN, "test_a_compaction_that_frees_little_waits_until_it_must"),
        (PLAN, "test_a_new_prefix_is_begun_when_it_pays_for_itself"),
    ],
    "15. a plan never changes the log; a summary says what it covers and who made it": [
        (PLAN, "test_a_plan_changes_neither_the_log_nor_what_an_earlier_plan_was_made_from"),
        SEGMENTS,
    ],
    "16. every turn is accounted for, with a reason": [ACCOUNTED, SEGMENTS],
    "17. a summary that failed changes nothing": [
        (ABSTRACT, "test_a_summariser_that_fails_changes_nothing"),
        (ABSTRACT, "test_an_answer_that_cannot_be_right_counts_for_nothing"),
        (RECALL, "test_a_summariser_that_errs_is_not_believed"),
    ],
    "18. orders inside tool output stay the tool's": [
        (PLAN, "test_orders_inside_tool_output_stay_the_tool_s"),
        (ABSTRACT, "test_constraints_are_the_user_s_words_and_a_tool_s_orders_its_own"),
    ],
    "19. pins and the user's constraints survive word for word": [
        (PLAN, "test_a_pin_stays_word_for_word"),
        (PLAN, "test_constraints_of_the_user_survive_word_for_word"),
    ],
}


@pytest.mark.parametrize("invariant", INVARIANTS)
def test_each_invariant_has_its_test(invariant: str) -> None:
    """The tests that are named exist, and assert something."""
    for name, test in INVARIANTS[invariant]:
        tree = ast.parse((HERE / name).read_text("utf-8"))
        found = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == test]
        assert found, f"{name} has no {test}"
        assert any(isinstance(node, ast.Assert | ast.With) for node in ast.walk(found[0]))


def test_all_nineteen_are_there() -> None:
    """Numbered one after the other."""
    assert [int(name.split(".")[0]) for name in INVARIANTS] == list(range(1, 20))
