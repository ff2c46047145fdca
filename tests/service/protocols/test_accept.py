from __future__ import annotations

import pytest

from service.protocols.accept import preferred

PNG, WEBP, JPEG, JSON = OFFERED = ("image/png", "image/webp", "image/jpeg", "application/json")


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (None, OFFERED),
        ("", OFFERED),
        ("*/*", OFFERED),
        ("image/*", [PNG, WEBP, JPEG]),
        ("image/webp", [WEBP]),
        ("application/json", [JSON]),
        ("text/html", []),
        ("image/jpeg, image/png;q=0.5", [JPEG, PNG]),
        ("image/png; q=0.5 , image/jpeg", [JPEG, PNG]),
        ("image/png;q=0.4, image/*;q=0.6", [WEBP, JPEG, PNG]),
        ("image/*, image/webp;q=0", [PNG, JPEG]),
        ("*/*;q=0", []),
        ("*/*;q=0.1, image/jpeg;q=0.0, application/json;q=0.05", [PNG, WEBP, JSON]),
        ("IMAGE/WebP;Q=1.000", [WEBP]),
        ("image/png;level=1;q=0.2, image/webp;q=0.3", [WEBP, PNG]),
        # What clients send whose users said nothing, and what browsers ask of a picture
        ("application/json, text/plain, */*", [JSON, PNG, WEBP, JPEG]),
        ("image/avif,image/webp,image/apng,image/svg+xml,image/*,*/*;q=0.8", [WEBP, PNG, JPEG, JSON]),
        # What can't be read
        ("image/png;q=many", [PNG]),
        ("image/png;q=2, image/webp", [PNG, WEBP]),
        ("png, */png, image/, /png, ;q=1", OFFERED),
        ("png, image/webp", [WEBP]),
        (",,image/webp,;", [WEBP]),
    ],
)
def test_media_types_come_in_the_order_in_which_a_client_likes_them(
    header: str | None, expected: list[str] | tuple[str, ...]
) -> None:
    assert preferred(header, OFFERED) == list(expected)


def test_of_a_header_without_end_the_beginning_is_read() -> None:
    many = "a/b," * 1_000_000
    assert preferred(f"image/webp,{many}image/png", OFFERED) == [WEBP]
    assert preferred(f"{many}image/png", OFFERED) == []
