"""envoyproxy/ratelimit's files, unchanged: how they are read, and which mistakes are told, with the place."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratekeeper.errors import PolicyError
from ratekeeper.service.envoy.load import load_envoy_config
from ratekeeper.service.envoy.model import EnvoyConfig, Node, Wildcard
from ratekeeper.service.envoy.watch import EnvoyWatch

MESSAGING = """\
domain: messaging
descriptors:
  # Only allow 5 marketing messages a day
  - key: message_type
    value: marketing
    descriptors:
      - key: to_number
        rate_limit:
          unit: day
          requests_per_unit: 5
  - key: to_number
    rate_limit: {unit: DAY, requests_per_unit: 100, name: numbers}
"""


def load(folder: Path, **files: str) -> EnvoyConfig:
    for name, text in files.items():
        (folder / f"{name}.yaml").write_text(text)
    return load_envoy_config(folder)


def found(config: EnvoyConfig, domain: str, **entries: str) -> Any:
    limit = config.find(domain, list(entries.items()))
    return limit and (limit[0].requests_per_unit, limit[0].unit, limit[1])


def test_a_file_is_looked_up_level_by_level(tmp_path: Path) -> None:
    config = load(tmp_path, messaging=MESSAGING)
    assert found(config, "messaging", to_number="1") == (100, 4, "9:to_number1:1")
    assert found(config, "messaging", message_type="marketing", to_number="1") == (
        5, 4, "12:message_type9:marketing9:to_number1:1",
    )  # fmt: skip
    for entries in ({"message_type": "marketing"}, {"message_type": "other", "to_number": "1"}, {"to": "1"},
                    {"to_number": "1", "more": "2"}, {}):  # fmt: skip
        assert found(config, "messaging", **entries) is None
    assert found(config, "else", to_number="1") is None
    limit = config.domains["messaging"].bare["to_number"].limit
    assert limit is not None
    assert (limit.label, limit.name) == ("numbers", "numbers")
    below = config.domains["messaging"].exact["message_type", "marketing"].bare["to_number"].limit
    assert below is not None
    assert below.label == "messaging.message_type.to_number"  # no value: it may be a secret


def test_the_most_specific_descriptor_counts_and_there_is_no_way_back(tmp_path: Path) -> None:
    config = load(tmp_path, d="""
domain: d
descriptors:
- {key: k, rate_limit: {unit: second, requests_per_unit: 1}}
- {key: k, value: ab*, rate_limit: {unit: second, requests_per_unit: 2}}
- {key: k, value: a*, rate_limit: {unit: second, requests_per_unit: 3}, share_threshold: true}
- {key: k, value: abc, rate_limit: {unit: second, requests_per_unit: 4}}
- {key: k, value: dead, descriptors: [{key: other}]}
""")  # fmt: skip
    assert found(config, "d", k="abc") == (4, 1, "1:k3:abc")
    assert found(config, "d", k="abd") == (2, 1, "1:k3:abd")
    assert found(config, "d", k="a") == (3, 1, "1:k*2:a*")
    assert found(config, "d", k="a*") == (3, 1, "1:k*2:a*")  # no value of a client has its own bucket
    assert found(config, "d", k="z") == (1, 1, "1:k1:z")
    assert found(config, "d", k="dead") is None


def test_values_are_read_as_they_are_written(tmp_path: Path) -> None:
    config = load(tmp_path, d="""
domain: 404
descriptors:
- &one {key: status, value: 1.10, rate_limit: &limit {unit: minute, requests_per_unit: 1_000}}
- {key: status, value: true, rate_limit: {<<: *limit, requests_per_unit: 0x10}}
- {key: status, value: yes, rate_limit: {unit: month, requests_per_unit: 4294967295}}
- {key: year, rate_limit: {unit: year, requests_per_unit: 1, unlimited: no}, descriptors: ~}
- {key: free, rate_limit: {unlimited: true}}
- {key: weekly, rate_limit: {unit: week, requests_per_unit: 7}, detailed_metric: true, value_to_metric: true}
""")  # fmt: skip
    assert found(config, "404", status="1.10") == (1000, 2, "6:status4:1.10")
    assert found(config, "404", status="true") == (16, 2, "6:status4:true")
    assert found(config, "404", status="yes") == (4294967295, 5, "6:status3:yes")
    assert found(config, "404", weekly="x") == (7, 7, "6:weekly1:x")
    limit = config.domains["404"].bare["free"].limit
    assert limit is not None
    assert limit.limit is None


def test_an_alias_may_be_used_twice(tmp_path: Path) -> None:
    config = load(tmp_path, d="""
domain: d
descriptors:
- {key: a, rate_limit: &base {unit: second, requests_per_unit: 1}}
- {key: b, rate_limit: &more {<<: *base, requests_per_unit: 2}}
- {key: c, rate_limit: *more}
""")  # fmt: skip
    assert [found(config, "d", **{key: "x"})[0] for key in "abc"] == [1, 2, 2]


@pytest.mark.parametrize(("text", "mistake"), [
    ("", ": the file is empty"),
    ("a: [", ": this is not YAML"),
    ("- a", ":1: the file must be a mapping"),
    ("descriptors: []", ":1: the file needs a domain"),
    ("domain: [d]", ":1: domain must be a string"),
    ("domain: d\ndomains: e", ":2: the file: unknown key 'domains': did you mean 'domain'?"),
    ("domain: d\ndomain: e", ":2: the file: 'domain' is there twice"),
    ("domain: d\ndescriptors: {}", ":2: descriptors must be a list"),
    ("domain: d\ndescriptors:\n- value: x", ":3: a descriptor needs a key"),
    ("domain: d\ndescriptors:\n- key: x*", ":3: a '*' can be in a value"),
    ("domain: d\ndescriptors:\n- key: x\n- key: x", ":4: the descriptor 'd.x' is there twice"),
    ("domain: d\ndescriptors:\n- {key: x, value: a}\n- {key: x, value: a}", ":4: the descriptor 'd.x' is there twice"),
    ("domain: d\ndescriptors:\n- {key: x, value: a*}\n- {key: x, value: a*}", ":4: the descriptor 'd.x' is there"),
    ("domain: d\ndescriptors:\n- {key: x, ratelimit: {}}", ":3: a descriptor: unknown key 'ratelimit': did you mean"),
    ("domain: d\ndescriptors:\n- {key: x, metadata: {a: b}}", ":3: 'metadata' cannot be honoured"),
    ("domain: d\ndescriptors:\n- {key: x, shadow_mode: 1}", ":3: shadow_mode must be true or false"),
    ("domain: d\ndescriptors:\n- {key: x, value: a, share_threshold: true}", ":3: share_threshold needs a value with"),
    ("domain: d\ndescriptors:\n- key: x\n  rate_limit: 5", ":4: rate_limit must be a mapping"),
    ("domain: d\ndescriptors:\n- key: x\n  rate_limit: {requests_per_unit: 5}", ":4: rate_limit needs a unit, not ''"),
    ("domain: d\ndescriptors:\n- key: x\n  rate_limit: {unit: hours, requests_per_unit: 5}", "did you mean 'hour'?"),
    ("domain: d\ndescriptors:\n- key: x\n  rate_limit: {unit: hour}", ":4: rate_limit needs requests_per_unit; 0"),
    ("domain: d\ndescriptors:\n- key: x\n  rate_limit: {unit: hour, requests_per_unit: -1}", "from 0 to 4294967295"),
    ("domain: d\ndescriptors:\n- key: x\n  rate_limit: {unit: hour, requests_per_unit: 1.5}", "a whole number"),
    ("domain: d\ndescriptors:\n- key: x\n  rate_limit: {unit: hour, requests_per_unit: '5'}", "a whole number"),
    ("domain: d\ndescriptors:\n- key: x\n  rate_limit: {unit: hour, requests_per_unit: !!int x}", "a whole number"),
    ("domain: d\ndescriptors:\n- key: x\n  rate_limit: {unit: hour, requests_per_unit: !!int ''}", "a whole number"),
    ("domain: d\ndescriptors:\n- key: x\n  rate_limit: {unit: hour, requests_per_unit: 1:30}", "a whole number"),
    (f"domain: d\ndescriptors:\n- key: x\n  rate_limit: {{unit: day, requests_per_unit: {5000 * '1'}}}", "whole"),
    ("domain: d\ndescriptors:\n- key: x\n  shadow_mode: !!bool x", ":4: shadow_mode must be true or false"),
    ("domain: d\ndescriptors:\n- key: x\n  rate_limit: {unlimited: true, unit: hour}", "no meaning beside unlimited"),
    ("domain: d\ndescriptors:\n- key: x\n  rate_limit: {unlimited: true, replaces: [{nam: y}]}", "unknown key 'nam'"),
    ("domain: d\ndescriptors:\n- key: x\n  rate_limit: {unlimited: true, name: y, replaces: [{name: y}]}", "another"),
    ("domain: d\ndescriptors:\n- key: x\n  rate_limit: {<<: 5}", "'<<' must be a mapping"),
    ("domain: d\ndescriptors: &all\n- {key: x, descriptors: *all}", "nested more than 32 deep"),
])  # fmt: skip
def test_a_mistake_is_told_with_its_file_and_line(text: str, mistake: str, tmp_path: Path) -> None:
    with pytest.raises(PolicyError) as error:
        load(tmp_path, bad=text)
    assert f"{tmp_path}/bad.yaml" in str(error.value)
    assert mistake in str(error.value)


def test_all_mistakes_of_all_files_are_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(PolicyError) as error:
        load(tmp_path, a="domain: d\nx: 1\ny: 2", b="domain: d")
    assert [line.split(": ")[0].removeprefix(f"{tmp_path}/") for line in str(error.value).splitlines()] == [
        "a.yaml:2", "a.yaml:3", "b.yaml:1",
    ]  # fmt: skip


def test_a_folder_without_files_is_an_error(tmp_path: Path) -> None:
    (tmp_path / ".hidden.yaml").write_text("domain: d")
    with pytest.raises(PolicyError, match="nothing would be limited"):
        load_envoy_config(tmp_path)
    with pytest.raises(PolicyError, match="needs a folder"):
        load_envoy_config(tmp_path / "none")
    (tmp_path / "latin.yaml").write_bytes(b"domain: \xff")
    with pytest.raises(PolicyError, match=r"latin\.yaml"):
        load_envoy_config(tmp_path)


@pytest.mark.parametrize(("make", "kind"), [(os.mkfifo, "a FIFO"), (os.mkdir, "a directory")])
def test_a_fifo_or_a_folder_among_the_files_is_told_and_never_hangs(
    make: Callable[[Path], None], kind: str, tmp_path: Path
) -> None:
    load(tmp_path, a="domain: a")
    with EnvoyWatch(tmp_path, lambda _: None, load_envoy_config(tmp_path), every=3600) as watch:
        make(tmp_path / "b.yaml")
        watch.reload()
        with pytest.raises(PolicyError, match=f"b.yaml: is {kind}, not a policy file"):
            load_envoy_config(tmp_path)


def test_yaml_that_multiplies_itself_ends(tmp_path: Path) -> None:
    lines = ["domain: d", "descriptors:", "- {key: a0, descriptors: &a0 [{key: x}, {key: y}]}"]
    lines += [
        f"- {{key: a{n}, descriptors: &a{n} [{{key: x, descriptors: *a{n - 1}}}, {{key: y, descriptors: *a{n - 1}}}]}}"
        for n in range(1, 30)
    ]
    with pytest.raises(PolicyError, match="more than 100,000 mappings"):
        load(tmp_path, bomb="\n".join(lines))


_LETTERS = st.text(alphabet="ab*", max_size=8)


@given(_LETTERS.filter(lambda text: "*" in text), st.text(alphabet="ab", max_size=10))
def test_a_wildcard_matches_as_a_regular_expression_would(pattern: str, value: str) -> None:
    expected = re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), value) is not None
    assert Wildcard("k", pattern, Node(), False).matches(value) == expected
