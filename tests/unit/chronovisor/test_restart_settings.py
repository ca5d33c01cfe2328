"""The settings of restarts reach the policies, each of them, with all times scaled."""

from __future__ import annotations

import msgspec

from chronovisor.parts.policies import restart_rules
from chronovisor.settings import Restarts
from commands.policies.saga import RestartRules


def test_the_defaults_are_those_of_the_policies() -> None:
    assert restart_rules(Restarts(), 1.0) == RestartRules()


def test_every_time_is_scaled_and_nothing_else() -> None:
    before, after = (msgspec.structs.asdict(restart_rules(Restarts(), by)) for by in (1.0, 0.1))
    for name, value in before.items():
        assert after[name] == (value * 0.1 if name.endswith("_s") else value), name


def test_every_setting_counts() -> None:
    for name in Restarts.__struct_fields__:
        changed = Restarts(**{name: 7})
        assert restart_rules(changed, 1.0) == RestartRules(**{name: 7}), name
