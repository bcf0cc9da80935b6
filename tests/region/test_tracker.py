"""The rules of visits, one by one."""

from history_svc.region.model import Update, visit_id
from history_svc.region.tracker import Rules, SceneTracker
from tests.region.scenes import at, seen, told

RULES = Rules(gap=3_000, silence=10_000, entered_age=3_600_000)


def after(*updates: Update) -> SceneTracker:
    """A scene that has seen these updates."""
    tracker = SceneTracker("hall", RULES)
    for update in updates:
        assert tracker.apply(update)
    return tracker


def test_a_walk_through_zones_makes_visits_that_touch() -> None:
    tracker = after(at(1, seen("ann", "door")), at(2, seen("ann", "door")), at(3, seen("ann", "aisle")))
    assert told(tracker.take_changes()) == [
        ("entered", "ann", "door", 1),
        ("exited", "ann", "door", 3),
        ("entered", "ann", "aisle", 3),
    ]


def test_zones_may_overlap() -> None:
    tracker = after(at(1, seen("ann", "hall")), at(2, seen("ann", "hall", "till")), at(4, seen("ann", "hall")))
    assert told(tracker.take_changes()) == [
        ("entered", "ann", "hall", 1),
        ("entered", "ann", "till", 2),
        ("exited", "ann", "till", 4),
    ]
    assert [visit.zone for visit in tracker.visits()] == ["hall"]


def test_who_is_back_within_the_gap_goes_on_with_the_visit() -> None:
    tracker = after(at(1, seen("ann", "door")), at(2), at(3.999, seen("ann", "door")), at(5, seen("ann")))
    assert told(tracker.take_changes()) == [("entered", "ann", "door", 1), ("exited", "ann", "door", 5)]


def test_who_vanishes_left_at_the_last_sight() -> None:
    tracker = after(at(1, seen("ann", "door")), at(2, seen("ann", "door")), at(4.999))
    assert told(tracker.take_changes()) == [("entered", "ann", "door", 1)]
    tracker.apply(at(5))
    assert told(tracker.take_changes()) == [("exited", "ann", "door", 2)]


def test_who_is_back_too_late_begins_a_new_visit_even_if_the_controller_claims_the_old_entry() -> None:
    entered = {"door": 1000}
    tracker = after(at(1, seen("ann", "door", entered=entered)), at(2), at(4, seen("ann", "door", entered=entered)))
    assert told(tracker.take_changes()) == [
        ("entered", "ann", "door", 1),
        ("exited", "ann", "door", 1),
        ("entered", "ann", "door", 4),
    ]


def test_the_controllers_entry_counts_where_it_can_be_true() -> None:
    for claimed, entry in [
        (98_500, 98.5),
        (100_000, 100),
        (100_001, 100),  # after the update
        (100_000 - 3_600_000, -3500),
        (100_000 - 3_600_001, 100),  # absurdly old
    ]:
        tracker = after(at(100, seen("ann", "door", entered={"door": claimed})))
        assert told(tracker.take_changes()) == [("entered", "ann", "door", entry)]


def test_an_entry_before_the_end_of_the_last_visit_is_not_believed() -> None:
    for claimed, entry in [(2_999, 6), (3_000, 6), (3_001, 3.001)]:
        tracker = after(at(1, seen("ann", "door")), at(3, seen("ann")))
        tracker.take_changes()
        tracker.apply(at(6, seen("ann", "door", entered={"door": claimed})))
        assert told(tracker.take_changes()) == [("entered", "ann", "door", entry)]


def test_an_update_that_is_not_newer_changes_nothing() -> None:
    tracker = after(at(1, seen("ann", "door")), at(2, seen("ann", "door")))
    tracker.take_changes()
    assert not tracker.apply(at(2, seen("bob", "door")))
    assert not tracker.apply(at(1))
    changes = tracker.take_changes()
    assert (changes.events, changes.visits, changes.time) == ([], {}, 2000)


def test_a_pause_of_all_updates_is_not_a_departure() -> None:
    tracker = after(at(1, seen("ann", "door")), at(9, seen("ann", "door")), at(17, seen("ann")))
    assert told(tracker.take_changes()) == [("entered", "ann", "door", 1), ("exited", "ann", "door", 17)]


def test_a_long_silence_ends_every_visit_at_its_last_sight() -> None:
    tracker = after(at(1, seen("ann", "door")), at(2, seen("ann", "door")), at(12.5, seen("ann", "door")))
    assert told(tracker.take_changes()) == [
        ("entered", "ann", "door", 1),
        ("exited", "ann", "door", 2),
        ("entered", "ann", "door", 12.5),
    ]


def test_the_clock_may_end_visits_before_the_next_update_does() -> None:
    tracker = after(at(1, seen("ann", "door")), at(2, seen("ann", "door")))
    tracker.take_changes()
    tracker.fall_silent()
    assert told(tracker.take_changes()) == [("exited", "ann", "door", 2)]
    assert tracker.visits() == []
    tracker.fall_silent()
    tracker.apply(at(60))
    assert told(tracker.take_changes()) == []  # once is enough


def test_updates_that_were_only_late_reopen_what_silence_closed() -> None:
    tracker = after(at(1, seen("ann", "door")), at(2, seen("ann", "door")))
    (before,) = tracker.visits()
    tracker.fall_silent()
    tracker.take_changes()
    tracker.apply(at(2.5, seen("ann", "door")))
    changes = tracker.take_changes()
    assert told(changes) == [("entered", "ann", "door", 1)]
    assert [visit.id for visit in tracker.visits()] == [before.id]
    tracker.apply(at(3, seen("ann")))
    assert told(tracker.take_changes()) == [("exited", "ann", "door", 3)]


def test_updates_that_were_only_late_correct_the_exit_that_silence_guessed() -> None:
    tracker = after(at(1, seen("ann", "door")), at(2, seen("ann", "door")))
    tracker.fall_silent()
    tracker.take_changes()
    tracker.apply(at(2.5, seen("ann", "till")))
    assert told(tracker.take_changes()) == [("exited", "ann", "door", 2.5), ("entered", "ann", "till", 2.5)]


def test_cameras_are_those_that_saw_any_of_it() -> None:
    tracker = after(
        at(1, seen("ann", "door", cameras=["c2"])),
        at(2, seen("ann", "door", cameras=["c1", "c2"])),
        at(3, seen("ann", "till", cameras=["c3"])),
    )
    changes = tracker.take_changes()
    assert {visit.zone: visit.cameras for visit in changes.visits.values()} == {"door": ("c2", "c1"), "till": ("c3",)}


def test_tracks_are_those_of_any_of_it() -> None:
    tracker = after(
        at(1, seen("ann", "door")),
        at(2, seen("ann", "door", tracks=["cam:c1:7", "cam:c1:7"])),
        at(3, seen("ann", "door", tracks=["cam:c1:8"]), zone="door"),
        at(4, seen("ann", "door")),
    )
    (visit,) = tracker.take_changes().visits.values()
    assert visit.tracks == ("cam:c1:7", "cam:c1:8")
    for number in range(200):
        tracker.apply(at(5 + number, seen("ann", "door", tracks=[f"cam:c2:{number}"])))
    assert visit.tracks == tuple(f"cam:c2:{number}" for number in range(100, 200))


def test_an_entry_with_more_tracks_than_are_kept_has_the_latest() -> None:
    tracker = after(at(1, seen("ann", "door", tracks=[f"cam:c1:{number}" for number in range(150)])))
    (visit,) = tracker.take_changes().visits.values()
    assert visit.tracks == tuple(f"cam:c1:{number}" for number in range(50, 150))


def test_a_person_listed_twice_is_one_person() -> None:
    tracker = after(at(1, seen("ann", "door", cameras=["c1"]), seen("ann", "till", "door", cameras=["c2"])))
    assert told(tracker.take_changes()) == [("entered", "ann", "door", 1), ("entered", "ann", "till", 1)]
    assert {visit.cameras for visit in tracker.visits()} == {("c1", "c2")}


def test_only_what_changed_is_written() -> None:
    tracker = after(at(1, seen("ann", "door", "hall"), seen("bob", "door")))
    tracker.take_changes()
    tracker.apply(at(2, seen("ann", "door", "hall")))
    changes = tracker.take_changes()
    assert (changes.events, changes.visits, changes.untracked, changes.ends) == ([], {}, set(), {})
    assert changes.lagging == {visit_id("hall", "door", "bob", 1000): 1000}


def test_old_ends_are_forgotten() -> None:
    tracker = after(at(1, seen("ann", "door")), at(2, seen("ann")))
    assert tracker.take_changes().ends == {("ann", "door"): 2000}
    tracker.apply(at(3602))
    assert tracker.take_changes().forgotten_ends == set()
    tracker.apply(at(3602.001))
    assert tracker.take_changes().forgotten_ends == {("ann", "door")}


def test_the_id_of_a_visit_depends_on_scene_zone_person_and_entry() -> None:
    ids = {visit_id(*key) for key in [("a", "b", "c", 1), ("a", "b", "c", 2), ("ab", "", "c", 1), ("a", "c", "b", 1)]}
    assert len(ids) == 4
    assert visit_id("a", "b", "c", 1) == visit_id("a", "b", "c", 1)


def test_an_entry_and_an_exit_of_a_zone_make_a_visit_that_the_scenes_updates_missed() -> None:
    tracker = after(
        at(1, seen("ann")),
        at(1.2, seen("ann", "door", entered={"door": 1150}), zone="door"),
        at(1.8, seen("ann"), zone="door"),
        at(2, seen("ann")),
    )
    assert told(tracker.take_changes()) == [("entered", "ann", "door", 1.15), ("exited", "ann", "door", 1.8)]


def test_a_zones_update_and_the_scenes_are_sights_of_one_visit_whichever_comes_first() -> None:
    ann = seen("ann", "door", entered={"door": 1_900}, cameras=["c1"])
    for updates in [(at(1.9, ann, zone="door"), at(2, ann)), (at(2, ann), at(2.5, ann, zone="door"))]:
        tracker = after(at(1, seen("ann")), *updates, at(3, seen("ann"), zone="door"), at(3.1, seen("ann")))
        assert told(tracker.take_changes()) == [("entered", "ann", "door", 1.9), ("exited", "ann", "door", 3)]


def test_nobody_is_missed_in_a_zones_update() -> None:
    tracker = after(at(1, seen("ann", "door")), *(at(second, seen("bob", "door"), zone="door") for second in (2, 5, 9)))
    assert [visit.object_id for visit in tracker.visits()] == ["ann", "bob"]
    tracker.apply(at(10, seen("ann", "door"), seen("bob", "door")))
    assert told(tracker.take_changes()) == [("entered", "ann", "door", 1), ("entered", "bob", "door", 2)]


def test_a_scene_of_which_only_entries_and_exits_are_heard_does_not_fall_silent() -> None:
    tracker = after(at(1, seen("ann", "door"), zone="door"))
    tracker.fall_silent()
    tracker.apply(at(500, seen("bob", "door"), zone="door"))
    tracker.apply(at(1000, seen("ann"), zone="door"))
    assert told(tracker.take_changes()) == [
        ("entered", "ann", "door", 1),
        ("entered", "bob", "door", 500),
        ("exited", "ann", "door", 1000),
    ]


def test_an_exit_that_overtakes_its_entry_is_not_undone_by_it() -> None:
    tracker = after(at(5, seen("ann"), zone="door"), at(4, seen("ann", "door"), zone="door"))
    assert told(tracker.take_changes()) == []
    assert tracker.visits() == []


def test_a_late_update_of_the_scene_does_not_undo_what_a_zone_told_since() -> None:
    tracker = after(
        at(1, seen("ann", "door")),
        at(3, seen("ann"), zone="door"),
        at(3, seen("ann", "till"), zone="till"),
        at(2, seen("ann", "door")),
    )
    assert told(tracker.take_changes()) == [
        ("entered", "ann", "door", 1),
        ("exited", "ann", "door", 3),
        ("entered", "ann", "till", 3),
    ]
    assert [(visit.zone, visit.seen) for visit in tracker.visits()] == [("till", 3000)]


def test_what_is_told_of_a_zone_after_the_scene_moved_on_changes_nothing() -> None:
    tracker = after(at(1, seen("ann", "door")), at(3, seen("ann", "till")))
    tracker.take_changes()
    assert not tracker.apply(at(2, seen("ann", "door"), zone="door"))
    assert not tracker.apply(at(3, seen("ann"), zone="till"))
    assert tracker.take_changes().events == []


def test_a_repeat_of_what_is_long_forgotten_makes_no_ghost() -> None:
    entry = at(1, seen("ann", "door"), zone="door")
    tracker = after(entry, at(2, seen("ann"), zone="door"), at(3602.001, seen("bob", "till"), zone="till"))
    assert ("ann", "door") in tracker.take_changes().forgotten_ends
    assert not tracker.apply(entry)
    assert [visit.object_id for visit in tracker.visits()] == ["bob"]
