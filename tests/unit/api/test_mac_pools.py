"""MAC addresses over HTTP: what the process knows of them comes to the decisions."""

from __future__ import annotations

from tests.unit.api.conftest import Asked, Json, problem

RANGE = {"first": "02:00:00:00:00:00", "last": "02:00:00:00:00:01"}


async def a_cluster(asked: Asked) -> str:
    """A cluster whose pool has two addresses."""
    pool = await asked.made("/v1/mac_pools", {"name": "small", "ranges": [RANGE]})
    place = await asked.made("/v1/data_centers", {"name": "West"})
    body = {"name": "West", "data_center": place, "mac_pool": pool}
    return await asked.made("/v1/clusters", body)


async def test_the_last_addresses_are_given_and_then_none(asked: Asked) -> None:
    cluster = await a_cluster(asked)

    def body(name: str, **nic: str) -> Json:
        return {"name": name, "cluster": cluster, "nics": [{"bridge": "br0", **nic}]}

    for name in ("a", "b"):
        await asked.made("/v1/vms", body(name))
        await asked.catch_up()

    # the view knows that both are in use
    full = await asked.post("/v1/vms", body("c"))
    told = problem(full, 409, "mac-pool-exhausted")
    assert "small has no address left" in told["detail"]

    # and where an admin gives one, its holder is named
    taken = await asked.post("/v1/vms", body("c", mac="02:00:00:00:00:01"))
    told = problem(taken, 409, "in-use")
    assert "02:00:00:00:00:01 is in use by vm/" in told["detail"]
    await asked.made("/v1/vms", body("c", mac="06:00:00:00:00:01"))
