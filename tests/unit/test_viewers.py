"""What a hub's users may see of the page: the namespaces that their own servers make."""

from __future__ import annotations

import pytest
from tornado import web

from jupyter_session_store.config.namespaces import hub_namespace
from jupyter_session_store.web.pages.access import SCOPE, viewer_of_user


@pytest.mark.parametrize("name", ["ada", "bob@x/y", "Ünal", "a%2Fb"])
def test_a_user_sees_the_namespaces_of_their_servers(name: str) -> None:
    visible = viewer_of_user({"name": name, "scopes": [f"{SCOPE}!user={name}"]}).visible
    assert visible is not None
    for server in ("", "gpu", "a/b"):
        assert hub_namespace(name, server).startswith(visible)
    assert not hub_namespace(f"{name}2").startswith(visible)
    assert not hub_namespace(name[:-1]).startswith(visible)


def test_who_has_the_scope_for_all_sees_all() -> None:
    assert viewer_of_user({"name": "ada", "scopes": [SCOPE]}).visible is None
    with pytest.raises(web.HTTPError, match="needs the scope"):
        viewer_of_user({"name": "service", "kind": "service", "scopes": []})
