"""A config in a stranger's file: plain values and references to them, and nothing that grows, reads or runs."""
from pathlib import Path

import pytest

from utils.foreign import plain_settings, printable, read_settings


@pytest.fixture
def read(tmp_path):
    """What a YAML file of this text is read as."""
    def of(text: str) -> dict:
        (tmp_path / "config.yaml").write_text(text)
        return read_settings(tmp_path / "config.yaml")

    return of


def test_plain_values_are_read_as_hydra_reads_them(read):
    assert read("lr: 1e-4\nema: True\nname: ü@x\nlist: [1, {a: null}]\nday: 2026-01-01\n") == {
        "lr": 1e-4, "ema": True, "name": "ü@x", "list": [1, {"a": None}], "day": "2026-01-01"}


def test_references_to_plain_values_are_replaced(read):
    assert read("arch: {hidden_size: 8, ndim: '${.hidden_size}', loss: {a: '${..hidden_size}'}}\nb: ${arch.hidden_size}"
                ) == {"arch": {"hidden_size": 8, "ndim": 8, "loss": {"a": 8}}, "b": 8}


@pytest.mark.parametrize("text", [
    "${oc.env:TOKEN}", "a ${oc.env:TOKEN}", "${oc.env:TOKEN,none}", "${ oc.env:TOKEN }", "${${which}:TOKEN}",
    "$${a}{oc.env:TOKEN}", "${oc.decode:x}", "${oc.create:x}", "${hydra:runtime.cwd}", "${a}${a}", "${", "${nothing}",
    "${map}", "${chain}", "${.....a}", "\\${oc.env:TOKEN}"])
def test_any_other_reference_is_refused(read, monkeypatch, text):
    monkeypatch.setenv("TOKEN", "secret")
    beside = "a: 1\nwhich: oc.env\nmap: {a: 1}\nchain: ${a}\n"
    payload = {"a": 1, "which": "oc.env", "map": {}, "chain": "${a}", "name": text}
    for make in (lambda: read(f"{beside}name: '{text}'\n"), lambda: plain_settings(payload, Path("x"))):
        with pytest.raises(ValueError, match="(name=.*is not taken over; .*only references to plain values)|"
                                             "(config.yaml cannot be read as a config: )") as error:
            make()
        assert "secret" not in str(error.value)


@pytest.mark.parametrize("text, message", [
    ("a: !!python/object/apply:os.system [echo]", "cannot be read as a config: .*tag"),
    ("a: !!python/object/apply:pathlib.Path [x]", r"config.yaml: a=.*Path\('x'\) is no plain text"),
    ("a: !!binary aGk=", "a=b'hi' is no plain text"),
    ("a: &a [1, 2]\nb: [*a, *a]", "YAML aliases"),
    ("a: " + "[" * 30 + "]" * 30, "more than 20 levels deep"),
    ("a: " + "[" * 5000 + "]" * 5000, "cannot be read as a config"),
    ("a: [", "cannot be read as a config"), ("a: 1\na: 2", "cannot be read as a config: .*duplicate"),
    ("- 1", "the config is a list, and should map names to values"),
    ('a: "\\e[31mred"', r"a='\\x1b\[31mred' is no plain text"), ('"a\\e": 1', r"has the key 'a\\x1b'"),
    ("a: " + "x" * 1_000_001, "larger than 1 MB")])
def test_what_is_no_plain_config_is_one_message(read, text, message):
    with pytest.raises(ValueError, match=message):
        read(text)


@pytest.mark.parametrize("settings", [None, 3, [1], "x", {"a": object()}, {"a": {1.5: 2}}])
def test_so_is_what_a_checkpoint_holds_in_its_place(settings):
    with pytest.raises(ValueError, match="^file.ckpt: "):
        plain_settings(settings, Path("file.ckpt"))


def test_what_would_steer_a_terminal_is_spelled_out():
    assert printable("a\x1b]0;title\x07\x9b31m\r\nb\tü") == "a\\x1b]0;title\\x07\\x9b31m\\r\nb\tü"
