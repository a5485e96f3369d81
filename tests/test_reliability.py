"""The fault matrix: each fault, the tests that inject it, and the negative control. Open rows are named as open."""

import re
from pathlib import Path
from typing import NamedTuple

import pytest

TESTS = Path(__file__).parent


class Row(NamedTuple):
    """A fault: `file::test` of each test, and of the control that fails where the guard is taken away."""

    fault: str
    tests: tuple[str, ...] = ()
    controls: tuple[str, ...] = ()


RESUME, WATCH, KILLS = "preprocessing/test_resume.py", "pipeline/test_data_watch.py", "pipeline/test_training_kills.py"
FUZZ, HDF5, FILES = "preprocessing/hdf5/test_fuzz_hdf5.py", "preprocessing/hdf5", "preprocessing/test_files.py"
WHOLE, CHECKPOINT = "pipeline/test_integrity.py", "pipeline/test_checkpoint.py"
FAULTS, LIMITS, EXPOSED = "pipeline/test_train_faults.py", "pipeline/test_train_limits.py", "tuning/test_exposure.py"
RIGHTS, UNDISTURBED = "test_permissions.py", "pipeline/test_train_faults.py::test_an_undisturbed_training_ends_with_0"
RANKS, SEARCH, TRIAL = "pipeline/test_distributed.py", "tuning/test_search.py", "tuning/test_trial.py"

ROWS = {
    "F1": Row(
        "SIGKILL of a build",
        (f"{RESUME}::test_a_build_killed_at_any_moment_resumes_and_ends_with_the_same_bytes",),
        (f"{RESUME}::test_without_the_checksums_torn_rows_would_get_into_the_file",),
    ),
    "F2": Row(
        "SIGKILL of a build's worker", ("preprocessing/test_engines.py::test_a_killed_worker_is_reported_in_one_line",)
    ),
    "F3": Row(
        "SIGTERM and SIGINT",
        (
            f"{RESUME}::test_a_signal_ends_a_build_with_its_code_and_one_line",
            f"{FAULTS}::test_a_signal_ends_it_with_one_line",
            f"{SEARCH}::test_an_interrupted_search_leaves_no_trial_running",
        ),
        (UNDISTURBED,),
    ),
    "F4": Row(
        "full disk",
        (
            f"{RESUME}::test_a_full_disk_is_reported_and_changes_nothing_and_the_build_resumes",
            f"{FAULTS}::test_a_full_disk",
            f"{LIMITS}::test_a_limit_of_file_sizes_is_a_full_disk",
        ),
        (UNDISTURBED,),
    ),
    "F5": Row(
        "damaged recordings",
        ("preprocessing/test_fuzz.py::test_mutants_are_rejected_with_a_line_or_change_nothing_but_a_digit",),
        ("preprocessing/test_fuzz.py::test_a_parser_without_this_guard_lets_mutants_through",),
    ),
    "F9": Row(
        "known missing clips",
        ("preprocessing/test_build.py::test_clips_known_to_be_missing_or_without_a_body_are_skipped_and_counted",),
    ),
    "F10": Row(
        "corrupt HDF5, and data that change under a training",
        (
            f"{FUZZ}::test_damaged_files_are_refused_or_equal",
            f"{FUZZ}::test_many_damaged_files_are_refused_or_equal",
            f"{HDF5}/test_contents.py::test_contents_that_contradict_each_other_are_named",
            f"{HDF5}/test_contents.py::test_verify_looks_at_all_values",
            f"{HDF5}/test_watch.py::test_a_change_is_named_with_the_remedy",
            f"{WATCH}::test_a_file_that_is_replaced_ends_the_training_and_spoils_no_weights",
            f"{WATCH}::test_a_file_that_is_cut_ends_the_training_with_one_line",
        ),
        (
            f"{FUZZ}::test_h5py_alone_reads_damaged_frames",
            f"{FUZZ}::test_h5py_raises_of_several_classes_on_damaged_metadata",
            f"{HDF5}/test_contents.py::test_a_file_that_is_signed_again_is_intact",
            f"{HDF5}/test_watch.py::test_permissions_and_links_may_change",
        ),
    ),
    "F11": Row("hostile HDF5", (f"{HDF5}/test_reader.py::test_data_outside_the_file_is_rejected",)),
    "F13": Row(
        "SIGKILL of a rank",
        (
            f"{RANKS}::test_a_rank_that_dies_ends_the_command_and_is_named",
            "pipeline/test_ranks_killed.py::test_a_killed_rank_changes_no_bit",
            f"{FAULTS}::test_a_killed_rank_is_named",
        ),
        (UNDISTURBED,),
    ),
    "F14": Row(
        "hang of a rank",
        (
            f"{RANKS}::test_a_rank_that_hangs_is_ended_with_the_others",
            f"{RANKS}::test_one_line_names_the_rank_and_the_first_cause",
            f"{FAULTS}::test_a_stopped_process_is_named",
        ),
        (
            f"{RANKS}::test_a_rank_that_computes_longer_than_the_bound_is_waited_for",
            "pipeline/test_rank_watch.py::test_a_rank_that_computes_is_not_silent",
        ),
    ),
    "F15": Row(
        "error of one rank, and a rank without clips",
        (
            f"{RANKS}::test_an_error_that_nobody_expected_is_printed_with_its_rank",
            "pipeline/data/test_augment.py::test_each_change_takes_a_part_of_any_size",
        ),
        (UNDISTURBED,),
    ),
    "F17": Row("non-finite loss", ("pipeline/test_nonfinite.py::test_from_the_bad_batch_on_no_step_is_taken",)),
    "F18": Row(
        "SIGKILL of a training, inside a save too",
        (
            f"{KILLS}::test_a_kill_at_each_step_of_a_save",
            f"{KILLS}::test_kills_at_random_moments",
            f"{WHOLE}::test_a_kill_while_a_part_is_replaced_leaves_a_whole_folder",
        ),
        (f"{KILLS}::test_without_the_allowed_pair_a_kill_would_be_taken_for_an_edit",),
    ),
    "F21": Row(
        "corrupt checkpoint; edited, mixed, older parts of a run folder",
        (f"{CHECKPOINT}::test_no_damage_is_loaded_silently", f"{WHOLE}::test_every_edit_is_named_by_every_consumer"),
        (
            f"{CHECKPOINT}::test_torch_alone_would_load_damaged_numbers",
            f"{WHOLE}::test_without_checksums_edits_pass",
            f"{WHOLE}::test_an_untouched_folder_passes",
        ),
    ),
    "F22": Row(
        "two runs in one folder, the lock file deleted",
        (
            f"{FILES}::test_a_deleted_lock_file_lets_nobody_in",
            f"{WATCH}::test_a_deleted_lock_file_lets_no_second_training_in",
        ),
    ),
    "F23": Row(
        "crash of a trial", ("tuning/test_trial.py::test_a_killed_attempt_is_named_and_the_next_one_resumes_it",)
    ),
    "F24": Row(
        "SIGKILL of a driver",
        (
            f"{SEARCH}::test_a_killed_trial_is_tried_again_and_a_killed_driver_repeats_nothing",
            f"{EXPOSED}::test_a_killed_driver_leaves_no_process_and_repeats_no_trial",
        ),
    ),
    "F26": Row(
        "wrong permissions",
        (f"{RIGHTS}::test_one_line_names_what_is_not_permitted", f"{FAULTS}::test_permission_denied"),
        (f"{RIGHTS}::test_with_the_privilege_the_same_works",),
    ),
    "F27": Row(
        "loss of the network",
        (
            "pipeline/tracking/test_follower.py::"
            "test_a_server_of_no_use_costs_one_message_and_the_run_is_recorded_on_disk",
            f"{SEARCH}::test_an_online_search_does_not_wait_for_its_server",
        ),
    ),
    "F28": Row(
        "clock, locale and time zone",
        (
            f"{RESUME}::test_locale_and_time_zone_change_no_byte",
            f"{LIMITS}::test_a_clock_that_jumps_changes_nothing",
            f"{LIMITS}::test_locales_change_nothing",
        ),
        ("preprocessing/test_exits.py::test_an_output_without_the_character_does_not_end_the_work",),
    ),
    "F29": Row(
        "little memory, few descriptors, no /dev/shm",
        (
            f"{FAULTS}::test_out_of_memory",
            f"{LIMITS}::test_few_descriptors",
            f"{LIMITS}::test_a_tiny_shm",
        ),
        (UNDISTURBED,),
    ),
    "F30": Row(
        "power loss",
        ("pipeline/test_power_loss.py::test_every_state_of_the_disk_is_whole",),
        ("pipeline/test_power_loss.py::test_without_a_sync_a_state_is_broken",),
    ),
    "F31": Row(
        "version skew",
        (
            "test_releases.py::test_a_finished_run_is_whole_and_keeps_its_figures",
            "test_releases.py::test_an_interrupted_run_goes_on",
            "test_golden.py::test_an_interrupted_old_run_resumes_to_the_end_of_the_finished_one",
        ),
    ),
    "F32": Row("many steps", (f"{LIMITS}::test_two_thousand_steps_leak_nothing",)),
}
# Rows that this table names no test of; some are tested in parts elsewhere.
OPEN = ("F6", "F7", "F8", "F12", "F16", "F19", "F20", "F25")


@pytest.mark.parametrize("name", ROWS)
def test_each_test_of_a_row_is_there(name: str) -> None:
    """Under its name, in its file."""
    row = ROWS[name]
    assert row.tests
    for place in (*row.tests, *row.controls):
        path, test = place.split("::")
        assert re.search(rf"^def {test}\(", (TESTS / path).read_text(), re.MULTILINE), place


def test_every_fault_is_in_the_table_or_open() -> None:
    """F1 to F32."""
    assert sorted([*ROWS, *OPEN], key=lambda name: int(name[1:])) == [f"F{number}" for number in range(1, 33)]
