"""--resume, --overwrite and --max-time as they are typed."""

from __future__ import annotations

import time

import pytest

from rlhfcli.cli.shared.training_options import seconds, training_options
from rlhfcli.errors import UserError


@pytest.mark.parametrize(
    ("text", "expected"), [("3h55m", 14_100), ("90m", 5_400), ("2d", 172_800), ("1d1h1m1s", 90_061), ("30s", 30)]
)
def test_times(text, expected):
    assert seconds(text) == expected


@pytest.mark.parametrize("text", ["", "90", "55m3h", "1.5h", "0h", "three hours", "3 h", "-1h"])
def test_an_invalid_time_is_refused(text):
    with pytest.raises(UserError) as caught:
        training_options(resume=False, overwrite=False, max_time=text)
    assert str(caught.value) == f'--max-time: must be a time such as 3h55m, 90m or 2d, got "{text}"'


def test_to_resume_and_to_start_again_exclude_each_other():
    with pytest.raises(UserError, match="--resume and --overwrite exclude each other"):
        training_options(resume=True, overwrite=True, max_time=None)


def test_the_clock_runs_from_the_beginning_of_the_command():
    options = training_options(resume=True, overwrite=False, max_time="1s")
    time.sleep(1.0)
    assert options.max_time is not None and options.max_time <= 0
    session = options.session("data", "rlhf run --resume")
    assert session.stop.reason == "the time is over"
    assert (session.resume, session.fingerprint, session.resume_command) == (True, "data", "rlhf run --resume")
    without = training_options(resume=False, overwrite=False, max_time=None)
    assert without.max_time is None and without.session("", "").stop.reason is None
