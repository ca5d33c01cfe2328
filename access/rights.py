"""Who may do what.

For now there are two kinds of principals, and no grants: the bootstrap admin may do everything,
a host nothing of the admin API (it has the gateway, where its certificate limits it to itself).
Grants come as one more source in `allowed`: callers already pass the object, and get the same
yes or no.
"""

from access.principals import Principal, PrincipalKind
from access.right_names import Right

RIGHTS = frozenset(right.value for right in Right)


def allowed(principal: Principal, right: str, object_id: str | None) -> bool:
    """Whether `principal` may use `right` on the object (None: on the whole system)."""
    del right, object_id  # grants will look at them; the admin's right covers every object
    return principal.kind is PrincipalKind.ADMIN


def is_right(name: str) -> bool:
    """Whether a right has this name: for the test that each command declares a real one."""
    return name in RIGHTS
