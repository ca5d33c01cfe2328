"""The vault: what is put in comes out, sealed by the engine's key, and is forgotten."""

from __future__ import annotations

import pytest

from access.secrets import EngineSecret, UnusableKey
from access.vault import MemoryVault, SecretForgotten, references_in

SECRET = "correct horse battery staple"


async def test_a_secret_comes_out_under_its_reference_until_it_is_forgotten() -> None:
    vault = MemoryVault()
    reference = await vault.put(SECRET)
    other = await vault.put(SECRET)
    assert reference != other
    assert await vault.get(reference) == SECRET
    await vault.delete(reference)
    await vault.delete(reference)
    with pytest.raises(SecretForgotten) as refused:
        await vault.get(reference)
    assert SECRET not in str(refused.value)
    assert await vault.get(other) == SECRET


async def test_what_nothing_refers_to_is_swept_once_it_is_old() -> None:
    vault = MemoryVault()
    kept, left = await vault.put("kept"), await vault.put("left")
    assert await vault.sweep({kept}, older_than_s=60) == 0
    assert await vault.sweep({kept}, older_than_s=-1) == 1
    assert await vault.get(kept) == "kept"
    with pytest.raises(SecretForgotten):
        await vault.get(left)


async def test_references_are_found_wherever_they_stand() -> None:
    vault = MemoryVault()
    one, two = await vault.put("1"), await vault.put("2")
    document = f'{{"a": ["{one}"], "b": {{"c": "{two}", "d": "vault/nonsense"}}}}'.encode()
    assert references_in(document) == {one, two}


def test_what_is_sealed_opens_by_its_own_key_and_name_only() -> None:
    key = EngineSecret(b"k" * 32)
    sealed = key.seal("vault/1", SECRET.encode())
    assert SECRET.encode() not in sealed
    assert key.seal("vault/1", SECRET.encode()) != sealed
    assert key.open("vault/1", sealed) == SECRET.encode()
    altered = sealed[:-1] + bytes([sealed[-1] ^ 1])
    for other, name, text in (
        (key, "vault/2", sealed),
        (EngineSecret(b"o" * 32), "vault/1", sealed),
        (key, "vault/1", altered),
        (key, "vault/1", b"short"),
    ):
        with pytest.raises(UnusableKey):
            other.open(name, text)
