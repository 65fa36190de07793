"""A pytest plugin: jupyter_server's tests of gateways, on this package's classes.

Loaded with ``-p`` besides upstream_plugin. ``PersistentGatewayKernelManager``,
``PersistentGatewayKernel`` and ``PersistentSessionManager`` get the names by
which ServerApp chooses its classes where there is a gateway. The tests put a
mock in the place of the stock classes' way to it, and what this package asks a
gateway itself goes to that mock as well. A test whose server has other classes,
or that ought to have started a kernel with these and did not, is an error.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from io import BytesIO
from typing import Any

import pytest
from jupyter_server.gateway import managers
from jupyter_server.gateway.gateway_client import GatewayClient
from tornado import web
from tornado.httpclient import AsyncHTTPClient, HTTPRequest, HTTPResponse
from upstream_plugin import calls

from jupyter_session_store import PersistentSessionManager
from jupyter_session_store.gateway import PersistentGatewayKernel, PersistentGatewayKernelManager

#: What ServerApp's defaults name, and the test module imports.
REPLACED: dict[str, type] = {
    "GatewayKernelManager": PersistentGatewayKernel,
    "GatewayMappingKernelManager": PersistentGatewayKernelManager,
    "GatewaySessionManager": PersistentSessionManager,
}
for _name, _ours in REPLACED.items():
    setattr(managers, _name, _ours)

#: Tests that tell by ``__name__`` which classes ServerApp chose. Ours have the stock names
#: meanwhile, and that it chose ours is checked afterwards.
STOCK_NAMES = frozenset({"test_gateway_class_mappings"})

#: The helpers of the test module that start a kernel.
STARTERS = ("create_kernel", "create_session")


def pytest_configure(config: pytest.Config) -> None:
    """Register the part that keeps count."""
    config.stash[_GATEWAY] = gateway = Gateway()
    config.pluginmanager.register(gateway, "session-store-gateway")


class Gateway:
    """Brings this package's questions to the tests' gateway, and counts what its classes do."""

    def __init__(self) -> None:
        self.started = 0
        self.tests: list[str] = []
        self.servers = 0
        #: The answers to this package's own questions, by their status.
        self.answers: Counter[int] = Counter()
        self.renamed: list[str] = []

    def replace(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Count the kernels that start, and send what is meant for the gateway to the mock."""
        start, fetch, request = (
            PersistentGatewayKernel.start_kernel,
            AsyncHTTPClient.fetch,
            getattr(managers, "gateway_request"),  # noqa: B009
        )

        async def counted(kernel: PersistentGatewayKernel, **kwargs: Any) -> None:
            await start(kernel, **kwargs)
            self.started += 1

        def routed(client: AsyncHTTPClient, url: Any, *args: Any, **kwargs: Any) -> Any:
            mock = getattr(managers, "gateway_request")  # noqa: B009
            if mock is request or not str(url).startswith(str(GatewayClient.instance().url)):
                return fetch(client, url, *args, **kwargs)
            return self._ask(mock, url, kwargs["method"])

        monkeypatch.setattr(PersistentGatewayKernel, "start_kernel", counted)
        monkeypatch.setattr(AsyncHTTPClient, "fetch", routed)

    async def _ask(self, mock: Any, url: str, method: str) -> HTTPResponse:
        try:
            response: HTTPResponse = await mock(url, method=method)
        except web.HTTPError as error:
            # Tornado drops the message that the mock gives it. A gateway's names the kernel.
            text = json.dumps({"message": f"Kernel does not exist: {url.rpartition('/')[2]}"})
            buffer = BytesIO(text.encode())
            response = HTTPResponse(HTTPRequest(url, method), error.status_code, buffer=buffer)
        self.answers[response.code] += 1
        return response

    def judge(self, item: pytest.Function, started: int) -> None:
        """Fail a test that did without this package's classes."""
        if started:
            self.tests.append(item.nodeid)
        elif calls(item, *STARTERS):
            pytest.fail("No kernel was started by PersistentGatewayKernel.")
        app: Any = item.funcargs.get("jp_serverapp")
        if app is None or not app.gateway_config.gateway_enabled:
            return
        self.servers += 1
        for manager, ours in (
            (app.kernel_manager, PersistentGatewayKernelManager),
            (app.session_manager, PersistentSessionManager),
        ):
            if type(manager) is not ours:
                pytest.fail(f"The server's is a {type(manager)} and not a {ours}.")

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Fail a run in which this package's classes started nothing, or asked for nothing."""
        # A second attempt may be at tests that need neither.
        idle = not (self.started and self.answers) and not session.config.getoption("lf")
        if idle and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Say what this package's classes did."""
        terminalreporter.section("session store: gateway")
        write = terminalreporter.write_line
        write(
            f"{self.started} kernels of {len(self.tests)} tests were started by "
            "PersistentGatewayKernel."
        )
        write(f"{self.servers} servers were seen to have PersistentGatewayKernelManager.")
        answers = ", ".join(f"{status} ({n})" for status, n in sorted(self.answers.items()))
        write(f"the tests' gateway answered gatewayapi.ask {self.answers.total()} times: {answers}")
        for test in self.renamed:
            write(f"was shown our classes under the stock names: {test.rpartition('::')[2]}")


_GATEWAY = pytest.StashKey[Gateway]()


@pytest.fixture(autouse=True)
def stock_names(request: pytest.FixtureRequest) -> Iterator[None]:
    """Give our classes the stock names where a test is about names."""
    own = {ours: ours.__name__ for ours in REPLACED.values()}
    if request.node.originalname in STOCK_NAMES:
        request.config.stash[_GATEWAY].renamed.append(request.node.nodeid)
        for name, ours in REPLACED.items():
            ours.__name__ = name
    yield
    for ours, name in own.items():
        ours.__name__ = name


@pytest.fixture(autouse=True)
def session_store_gateway(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """Run the test on this package's classes, and see that it did."""
    gateway = request.config.stash[_GATEWAY]
    gateway.replace(monkeypatch)
    before = gateway.started
    yield
    gateway.judge(request.node, gateway.started - before)
