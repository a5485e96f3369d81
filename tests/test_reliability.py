"""The fault matrix F1 to F32: each fault, the tests that inject it, and the negative controls."""

import re
from pathlib import Path
from typing import NamedTuple

import pytest

TESTS = Path(__file__).parent


class Row(NamedTuple):
    """A fault: `file::test` of each test, and of the controls: the guard is taken away, or the fault is shown real."""

    fault: str
    tests: tuple[str, ...]
    controls: tuple[str, ...]


RESUME, BUILDS, KILLS = (
    "preprocessing/test_resume.py", "preprocessing/test_build_kills.py", "pipeline/test_training_kills.py"
)  # fmt: skip
FUZZ, HDF5, FILES = "preprocessing/hdf5/test_fuzz_hdf5.py", "preprocessing/hdf5", "preprocessing/test_files.py"
HOSTILE, ENGINES = "preprocessing/hdf5/test_hostile.py", "preprocessing/test_engines.py"
NAMES, ODD = "preprocessing/sources/test_hostile_names.py", "preprocessing/test_odd_clips.py"
WHOLE, CHECKPOINT, WATCH = (
    "pipeline/test_integrity.py", "pipeline/test_checkpoint.py", "pipeline/test_data_watch.py"
)  # fmt: skip
FAULTS, LIMITS, EXPOSED = "pipeline/test_train_faults.py", "pipeline/test_train_limits.py", "tuning/test_exposure.py"
RIGHTS, UNDISTURBED = "test_permissions.py", f"{FAULTS}::test_an_undisturbed_training_ends_with_0"
RANKS, TRAIN, PREFETCH = "pipeline/test_launcher.py", "pipeline/test_train.py", "pipeline/data/test_prefetch.py"
SEARCH, TRIAL, LEDGER = "tuning/test_search.py", "tuning/test_trial.py", "tuning/test_ledger.py"
SIGNALS = "preprocessing/test_lifetime.py::test_python_alone_ends_on_a_signal_without_a_line"
STATE = f"{TRAIN}::test_each_part_of_the_state_is_needed_to_resume_bitwise"
FOLLOWER, RELEASES = "pipeline/tracking/test_follower.py", "test_releases.py"

ROWS = {
    "F1": Row(
        "SIGKILL of a build",
        (
            f"{RESUME}::test_a_build_killed_at_any_moment_resumes_and_ends_with_the_same_bytes",
            f"{BUILDS}::test_a_kill_at_each_step_of_a_build",
            f"{BUILDS}::test_kills_of_builds_at_random_moments",
        ),
        (f"{RESUME}::test_without_the_checksums_torn_rows_would_get_into_the_file",),
    ),
    "F2": Row(
        "SIGKILL of a build's worker",
        (
            f"{ENGINES}::test_a_killed_worker_is_reported_in_one_line",
            f"{BUILDS}::test_a_killed_worker_is_reported_with_the_place_and_the_build_resumes",
        ),
        (f"{ENGINES}::test_the_pool_alone_raises_what_no_command_expects",),
    ),
    "F3": Row(
        "SIGTERM and SIGINT",
        (
            f"{RESUME}::test_a_signal_ends_a_build_with_its_code_and_one_line",
            f"{FAULTS}::test_a_signal_ends_it_with_one_line",
            f"{SEARCH}::test_an_interrupted_search_leaves_no_trial_running",
            "preprocessing/test_startup.py::test_interrupts_while_modules_are_imported_are_one_line",
        ),
        (UNDISTURBED, SIGNALS),
    ),
    "F4": Row(
        "full disk",
        (
            f"{RESUME}::test_a_full_disk_is_reported_and_changes_nothing_and_the_build_resumes",
            f"{FAULTS}::test_a_full_disk",
            f"{LIMITS}::test_a_limit_of_file_sizes_is_a_full_disk",
        ),
        (UNDISTURBED, f"{FILES}::test_writing_in_place_on_a_full_disk_destroys_the_old_file"),
    ),
    "F5": Row(
        "damaged recordings",
        ("preprocessing/test_fuzz.py::test_mutants_are_rejected_with_a_line_or_change_nothing_but_a_digit",),
        ("preprocessing/test_fuzz.py::test_a_parser_without_this_guard_lets_mutants_through",),
    ),
    "F6": Row(
        "a clip that occurs twice",
        (f"{NAMES}::test_a_clip_that_occurs_twice_ends_the_build_before_any_work",),
        (f"{NAMES}::test_links_and_copies_of_one_name_differ",),
    ),
    "F7": Row(
        "values, bodies and frames that nobody records",
        (f"{ODD}::test_an_odd_clip_has_the_outcome_of_the_table",),
        (f"{ODD}::test_the_same_clip_without_the_oddity_is_built",),
    ),
    "F8": Row(
        "hostile names",
        (f"{NAMES}::test_a_hostile_name_in_a_zip_touches_nothing",),
        (f"{NAMES}::test_plain_extraction_of_such_a_zip_would_write_elsewhere",),
    ),
    "F9": Row(
        "known missing clips",
        ("preprocessing/test_build.py::test_clips_known_to_be_missing_or_without_a_body_are_skipped_and_counted",),
        (f"{ODD}::test_without_the_list_a_clip_known_to_be_missing_is_built",),
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
    "F11": Row(
        "hostile HDF5",
        (
            f"{HDF5}/test_reader.py::test_data_outside_the_file_is_rejected",
            f"{HOSTILE}::test_hostile_hdf5_is_rejected_in_a_second_with_little_memory",
        ),
        (f"{HOSTILE}::test_h5py_alone_reads_another_file_and_takes_the_memory",),
    ),
    "F12": Row(
        "one open file in many processes and threads",
        (
            f"{HOSTILE}::test_one_open_file_is_read_by_forks_and_threads_alike",
            f"{TRAIN}::test_batches_that_threads_make_ahead_train_the_same_network",
        ),
        (f"{HOSTILE}::test_a_file_position_is_shared_by_forks",),
    ),
    "F13": Row(
        "SIGKILL of a rank",
        (
            f"{RANKS}::test_a_rank_that_dies_ends_the_command_and_is_named",
            "pipeline/test_ranks_killed.py::test_a_killed_rank_changes_no_bit",
            f"{FAULTS}::test_a_killed_rank_is_named",
        ),
        (UNDISTURBED, STATE),
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
    "F16": Row(
        "crash of what reads clips: a worker of a build, a thread of a training",
        (
            f"{BUILDS}::test_a_killed_worker_is_reported_with_the_place_and_the_build_resumes",
            f"{ENGINES}::test_a_failure_reaches_the_caller",
            f"{PREFETCH}::test_an_error_comes_where_its_item_would_have_come",
        ),
        (
            f"{ENGINES}::test_the_pool_alone_raises_what_no_command_expects",
            f"{PREFETCH}::test_prefetched_items_come_in_order",
        ),
    ),
    "F17": Row(
        "non-finite loss",
        (
            "pipeline/test_nonfinite.py::test_from_the_bad_batch_on_no_step_is_taken",
            "pipeline/test_nonfinite.py::test_the_last_batch_of_an_epoch_is_told_at_its_end",
        ),
        ("pipeline/test_nonfinite.py::test_without_the_guard_a_bad_batch_spoils_the_weights",),
    ),
    "F18": Row(
        "SIGKILL of a training, inside a save too",
        (
            f"{KILLS}::test_a_kill_at_each_step_of_a_save",
            f"{KILLS}::test_kills_at_random_moments",
            f"{WHOLE}::test_a_kill_while_a_part_is_replaced_leaves_a_whole_folder",
        ),
        (f"{KILLS}::test_without_the_allowed_pair_a_kill_would_be_taken_for_an_edit",),
    ),
    "F19": Row(
        "a run cut at any epoch",
        (
            f"{TRAIN}::test_a_run_cut_after_any_epoch_resumes_bitwise",
            f"{TRAIN}::test_a_run_with_everything_switched_on_resumes_bitwise",
        ),
        (STATE, f"{TRAIN}::test_the_best_epoch_so_far_is_part_of_the_state"),
    ),
    "F20": Row(
        "another number of ranks",
        (
            f"{TRAIN}::test_any_number_of_ranks_trains_on_the_same_clips_in_the_same_order",
            f"{TRAIN}::test_any_number_of_ranks_trains_on_the_same_balanced_clips",
            f"{TRAIN}::test_two_ranks_train_as_one",
            f"{WATCH}::test_another_number_of_ranks_is_printed_and_recorded",
        ),
        (f"{TRAIN}::test_without_sync_two_ranks_do_not_train_as_one",),
    ),
    "F21": Row(
        "corrupt checkpoint; edited, mixed, older parts of a run folder or a study",
        (
            f"{CHECKPOINT}::test_no_damage_is_loaded_silently",
            f"{WHOLE}::test_every_edit_is_named_by_every_consumer",
            f"{LEDGER}::test_a_tampered_ledger_is_named_until_it_is_adopted",
        ),
        (
            f"{CHECKPOINT}::test_torch_alone_would_load_damaged_numbers",
            f"{WHOLE}::test_without_checksums_edits_pass",
            f"{WHOLE}::test_an_untouched_folder_passes",
            f"{LEDGER}::test_a_ledger_of_an_older_version_is_watched_from_now_on",
        ),
    ),
    "F22": Row(
        "two runs or builds in one folder, the lock file deleted",
        (
            f"{FILES}::test_a_deleted_lock_file_lets_nobody_in",
            f"{WATCH}::test_a_deleted_lock_file_lets_no_second_training_in",
            f"{RESUME}::test_builds_of_one_file_exclude_each_other",
        ),
        (f"{FILES}::test_a_lock_file_alone_lets_a_second_one_in_once_it_is_deleted",),
    ),
    "F23": Row(
        "crash of a trial",
        (
            f"{TRIAL}::test_a_killed_attempt_is_named_and_the_next_one_resumes_it",
            f"{TRIAL}::test_a_hanging_attempt_is_ended_at_its_limit",
            f"{TRIAL}::test_the_cause_of_a_failure_is_one_line",
            f"{SEARCH}::test_settings_without_a_trial_that_finishes_end_with_3",
        ),
        (f"{TRIAL}::test_the_checkpoint_is_what_a_killed_attempt_goes_on_from",),
    ),
    "F24": Row(
        "SIGKILL of a driver",
        (
            f"{SEARCH}::test_a_killed_trial_is_tried_again_and_a_killed_driver_repeats_nothing",
            f"{EXPOSED}::test_a_killed_driver_leaves_no_process_and_repeats_no_trial",
            f"{LEDGER}::test_a_kill_between_a_line_and_its_head_loses_nothing",
        ),
        (f"{EXPOSED}::test_without_the_reaper_processes_outlive_a_killed_driver",),
    ),
    "F25": Row(
        "torn state of Ray",
        (f"{SEARCH}::test_a_torn_state_of_ray_changes_nothing",),
        (f"{SEARCH}::test_ray_alone_cannot_restore_a_torn_state",),
    ),
    "F26": Row(
        "wrong permissions",
        (f"{RIGHTS}::test_one_line_names_what_is_not_permitted", f"{FAULTS}::test_permission_denied"),
        (f"{RIGHTS}::test_with_the_privilege_the_same_works",),
    ),
    "F27": Row(
        "loss of the network",
        (
            f"{FOLLOWER}::test_a_server_of_no_use_costs_one_message_and_the_run_is_recorded_on_disk",
            f"{FOLLOWER}::test_a_server_that_fails_later_does_not_hold_up_the_training",
            f"{SEARCH}::test_an_online_search_does_not_wait_for_its_server",
        ),
        (
            f"{FOLLOWER}::test_online_the_server_gets_all_of_it",
            f"{EXPOSED}::test_the_key_of_wandb_reaches_its_server_and_no_file",
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
            f"{RELEASES}::test_a_finished_run_is_whole_and_keeps_its_figures",
            f"{RELEASES}::test_an_interrupted_run_goes_on",
            f"{RELEASES}::test_files_of_a_later_version_are_rejected_by_name",
            "test_golden.py::test_an_interrupted_old_run_resumes_to_the_end_of_the_finished_one",
        ),
        (f"{RELEASES}::test_an_edited_part_of_a_release_is_named",),
    ),
    "F32": Row(
        "many steps, many builds",
        (
            f"{LIMITS}::test_two_thousand_steps_leak_nothing",
            f"{BUILDS}::test_two_hundred_builds_in_one_process_leak_nothing",
        ),
        (f"{LIMITS}::test_a_training_that_leaks_is_found", f"{BUILDS}::test_builds_that_leak_are_found"),
    ),
}


@pytest.mark.parametrize("name", ROWS)
def test_each_test_of_a_row_is_there(name: str) -> None:
    """Under its name, in its file; a control is another one than the tests."""
    row = ROWS[name]
    assert row.tests
    assert row.controls
    assert not set(row.tests) & set(row.controls)
    for place in (*row.tests, *row.controls):
        path, test = place.split("::")
        assert re.search(rf"^def {test}\(", (TESTS / path).read_text(), re.MULTILINE), place


def test_every_fault_is_in_the_table() -> None:
    """F1 to F32."""
    assert list(ROWS) == [f"F{number}" for number in range(1, 33)]
