from __future__ import annotations

import pytest

from service.errors import Forbidden, Unauthenticated
from service.security import AdminKey


@pytest.mark.parametrize("key", [None, ""])
@pytest.mark.parametrize("given", [None, "", "Bearer ", "Bearer", "Bearer None", "Bearer x"])
def test_without_a_key_control_is_closed_to_everybody(key: str | None, given: str | None) -> None:
    with pytest.raises(Forbidden, match="INFERD_ADMIN_KEY"):
        AdminKey(key).check(given)


@pytest.mark.parametrize("given", ["Bearer s3cret=", "bearer s3cret=", "BEARER s3cret=", "Bearer   s3cret=  "])
def test_who_has_the_key_may_control(given: str) -> None:
    AdminKey("s3cret=").check(given)


@pytest.mark.parametrize("given", [None, "", "s3cret", "Basic s3cret", "Bearer", "Bearers3cret", "Token s3cret"])
def test_who_brings_no_key_is_told_how(given: str | None) -> None:
    with pytest.raises(Unauthenticated, match="Authorization: Bearer <key>"):
        AdminKey("s3cret").check(given)


@pytest.mark.parametrize(
    "given", ["", "S3CRET", "s3cre", "s3crett", "s3cret s3cret", "Bearer s3cret", "s3cr\u00e9t", "\u20ac", "\ud800"]
)
def test_another_key_opens_nothing_and_is_not_repeated(given: str) -> None:
    with pytest.raises(Unauthenticated) as caught:
        AdminKey("s3cret").check(f"Bearer {given}")
    assert str(caught.value) == "the admin key is wrong"
