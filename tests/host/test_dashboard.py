"""The dashboard in a real Chromium, against the real daemon on a GB10 of its own; axe-core looks at every state."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from support.browser import Browser, Page, opened, why_not
from support.dashboard import ADDRESS, Dashboard, Play, barriers
from support.network import network_of
from support.nvml import GIB, Process
from support.spark import SparkHost
from support.witness import until

pytestmark = [pytest.mark.host, pytest.mark.skipif(why_not() is not None, reason=why_not() or "")]

HOSTILE = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def play(installed_host: SparkHost) -> Play:
    return Play.prepare(installed_host)


@pytest.fixture(scope="module")
def browser(play: Play) -> Iterator[Browser]:
    # Chromium lives in the host's network from its start; this thread does not need to.
    with network_of(play.host):
        one = Browser()
        one.__enter__()
    try:
        yield one
    finally:
        one.__exit__()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page at the dashboard; at its end it has complained of nothing and has asked nobody else."""
    with opened(browser, ADDRESS) as page:
        yield page
        assert page.complaints == []
        assert {address for address in page.requests if not address.startswith((ADDRESS, "data:"))} == set()


@pytest.fixture
def dashboard(play: Play, page: Page) -> Iterator[Dashboard]:
    """The page with its token given, alpha serving, nothing held up."""
    play.settle()
    dashboard = Dashboard(page)
    dashboard.enter(play.token)
    page.await_text("serving", ".slot")
    yield dashboard
    play.release()


def test_the_port_asks_for_a_token_and_the_page_keeps_it_to_itself(play: Play, page: Page) -> None:
    dashboard = Dashboard(page)
    page.await_text("This port wants a token")
    page.until("document.activeElement.id === 'token'", "the focus in the token's field")
    assert barriers(page) == []
    dashboard.enter("smd_aaaaaaaa_" + "a" * 43)
    page.await_text("does not know this token")
    assert barriers(page) == []
    page.click("Look inside")
    dashboard.enter(play.token)
    page.await_text("alpha", ".occupant")
    assert page.evaluate("[localStorage.length, sessionStorage.length, document.cookie, location.href]") == [
        *(0, 0, ""),
        ADDRESS,
    ]
    assert play.token not in str(page.evaluate("document.documentElement.outerHTML"))
    page.open(ADDRESS)
    page.await_text("This port wants a token")
    assert "alpha" not in page.text()


def test_a_token_that_may_only_look_is_told_so(play: Play, page: Page) -> None:
    Dashboard(page).enter(play.observer)
    page.await_text("serving", ".slot")
    page.click("Switch to beta")
    page.await_text("lacks the scope", ".notice")
    assert barriers(page) == []
    page.click("Dismiss")
    page.until("!document.querySelector('.notice')", "the notice to go")
    assert play.slot() == ("alpha", "serving")


def test_one_click_switches_and_shows_how_far_it_is(play: Play, dashboard: Dashboard) -> None:
    page = dashboard.page
    assert barriers(page) == []
    play.hold("beta-load")
    page.click("Switch to beta")
    page.await_text("Switching to beta", ".switch")
    page.until("document.querySelector('.phases [aria-current=step]')?.innerText.startsWith('warming')", "warming")
    page.await_text("beta: pid", "#log-lines")
    assert page.evaluate("document.querySelector('[role=progressbar]') !== null")
    assert page.evaluate("document.title").startswith("… beta")
    assert barriers(page) == []
    play.release()
    page.until(
        "document.querySelector('.occupant')?.innerText === 'beta' && !document.querySelector('.switch')", "beta"
    )
    page.await_text("serving", ".slot")
    page.until("document.getElementById('said').textContent === 'beta: serving.'", "what a screen reader says")
    page.await_text("alpha → beta", ".history")
    bars = page.evaluate("[...document.querySelector('.past .bar').children].map((each) => each.className)")
    assert {"phase-stopping", "phase-warming"} <= set(bars)
    assert play.slot() == ("beta", "serving")


def test_whoever_would_be_cut_off_is_asked_about_first(play: Play, dashboard: Dashboard) -> None:
    page = dashboard.page
    with play.request_in_flight():
        page.click("Switch to beta")
        page.await_text("answering 1 request", "dialog")
        page.await_focus("Leave it as it is")
        assert barriers(page) == []
        page.key("Escape")
        page.until("!document.getElementById('dialog').open", "the dialog to close")
        page.await_focus("Switch to beta")
        page.click("Switch to beta")
        page.click("Leave it as it is", "dialog")
        assert play.switch_under_way() is None
        page.click("Switch to beta")
        page.click("Switch to beta", "dialog")
        page.await_text("Letting requests finish", ".switch")
        assert play.slot() == ("alpha", "draining")
        page.click("Cancel the switch")
        page.await_text("cancelled", ".past li")
        page.await_text("serving", ".slot")


def test_a_refusal_comes_with_its_numbers(play: Play, dashboard: Dashboard) -> None:
    page = dashboard.page
    page.await_text("does not fit", ".models")
    page.click("Switch to huge")
    page.await_text("Not enough memory: huge", ".failure")
    page.await_text("120.0 GiB", ".failure .numbers")
    page.await_text("8.0 GiB", ".failure .numbers")
    assert barriers(page) == []
    assert play.slot() == ("alpha", "serving")


def test_a_failure_comes_with_last_words_that_stay_words(play: Play, dashboard: Dashboard) -> None:
    page = dashboard.page
    page.click("Switch to broken")
    page.await_text("The model did not come up: broken", ".failure")
    page.await_text("alpha was started again", ".failure")
    assert HOSTILE in page.text(".failure .words")
    assert "The engine ran out of memory" in page.text(".failure .reading")
    page.until("document.querySelector('.occupant')?.innerText === 'alpha'", "alpha to be back")
    assert barriers(page) == []
    page.evaluate("(() => { const it = document.getElementById('log-model'); it.value = 'broken';"
                  " it.dispatchEvent(new Event('change')); })()")  # fmt: skip
    page.await_text(HOSTILE, "#log-lines")
    page.await_text("red letters", "#log-lines")
    assert "\x1b" not in page.text("#log-lines")
    assert page.evaluate("document.images.length") == 0


def test_what_a_check_forbids_may_be_tried_all_the_same(play: Play, dashboard: Dashboard) -> None:
    page = dashboard.page
    page.click("Details of absent 1 finding")
    page.await_text("absent.gguf", ".catalog")
    page.click("Switch to absent")
    page.await_text("The check found errors: absent", ".failure")
    assert barriers(page) == []
    page.click("Try it all the same")
    page.click("Switch all the same", "dialog")
    page.await_text("The model did not come up: absent", ".failure")
    page.until("document.querySelector('.occupant')?.innerText === 'alpha'", "alpha to be back")


def test_memory_is_drawn_and_told(play: Play, dashboard: Dashboard) -> None:
    page = dashboard.page
    play.gb10.available(50 * GIB)
    play.gb10.nvml.processes([Process("python3", 30 * GIB)])
    play.look()
    page.await_text("50.0", ".memory .figure")
    page.await_text("alpha", ".holders")
    page.await_text("30.0 GiB", ".holders")
    drawn = page.evaluate("[...document.querySelectorAll('.chart path.layer')].map((each) => each.getAttribute('d'))")
    assert len(drawn) >= 2
    assert not any("NaN" in path for path in drawn)
    assert "of 128.0 GiB" in page.evaluate("document.querySelector('.chart').getAttribute('aria-label')")
    play.gb10.available(6 * GIB)
    play.look()
    page.await_text("Under the reserve", ".memory")
    assert barriers(page) == []


def test_the_page_outlives_the_daemon(play: Play, dashboard: Dashboard) -> None:
    page, host = dashboard.page, play.host
    host.run("systemctl", "stop", "spark-modeld-http.socket", "spark-modeld.service")
    page.await_text("The daemon is away")
    assert "alpha" in page.text(".occupant")
    assert barriers(page) == []
    page.until("[...document.querySelectorAll('.act button')].every((each) => each.ariaDisabled === 'true')", "buttons")
    host.run("systemctl", "start", "spark-modeld-http.socket")
    page.until("document.querySelector('.line').innerText === 'live'", "to be live again")
    page.until("document.getElementById('said').textContent === 'The daemon is back.'", "what a screen reader says")
    play.switch("beta")
    page.until("document.querySelector('.occupant').innerText === 'beta'", "what happened meanwhile")
    host.run("systemctl", "kill", "--signal=KILL", "spark-modeld.service")
    play.switch("alpha")
    page.until("document.querySelector('.occupant').innerText === 'alpha' && "
               "document.querySelector('.line').innerText === 'live'", "to have found the next one")  # fmt: skip


def test_everything_goes_by_keyboard(play: Play, dashboard: Dashboard) -> None:
    page = dashboard.page
    dashboard.tab_to("Switch to beta")
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none"
    page.key("Enter")
    page.until("document.querySelector('.occupant').innerText === 'beta' && !document.querySelector('.switch')", "beta")
    page.await_focus("Serving")
    dashboard.tab_to("Details of alpha")
    page.key("Enter")
    page.await_text("spark-model@alpha.service", ".catalog")
    dashboard.tab_to("Switch to alpha")
    with play.request_in_flight("beta"):
        page.key(" ")
        page.until("document.getElementById('dialog').open", "the dialog")
        page.key("Tab")
        page.await_focus("Switch to alpha")
        page.key("Enter")
        page.await_text("Letting requests finish", ".switch")
    page.until(
        "document.querySelector('.occupant').innerText === 'alpha' && !document.querySelector('.switch')", "alpha"
    )


def test_an_empty_slot_and_side_models(play: Play, dashboard: Dashboard) -> None:
    page = dashboard.page
    page.click("Start small")
    page.await_text("serving", ".catalog > li:last-child")
    page.click("Empty the slot")
    page.click("Empty the slot", "dialog")
    page.await_text("Nothing is serving", ".occupant")
    assert barriers(page) == []
    page.click("Stop small")
    page.await_text("stopped", ".catalog > li:last-child")


def test_a_broken_configuration_is_told_and_left_behind(play: Play, dashboard: Dashboard) -> None:
    page, host = dashboard.page, play.host
    host.write("/etc/spark-modeld/models.d/wrong.toml", 'engine = "sglagn"\n')
    try:
        page.click("Reload the configuration")
        page.await_text("wrong.toml", ".notice")
        host.run("systemctl", "restart", "spark-modeld.service")
        page.await_text("Read the configuration again")
        page.await_text("sglang", ".failure")
        assert barriers(page) == []
    finally:
        host.run("rm", "/etc/spark-modeld/models.d/wrong.toml")
    page.click("Read the configuration again")
    page.await_text("alpha", ".occupant")


def test_another_page_cannot_switch(play: Play, browser: Browser) -> None:
    """A page of another origin on this machine, with and without a token it may have found, and by another name."""
    play.settle()
    before = play.switches()
    with opened(browser, "http://127.0.0.1:8001/health") as page:
        ask = """Promise.all(['no-cors', 'cors'].flatMap((mode) => [{}, { Authorization: 'Bearer %s' }].map((headers) =>
          fetch('%sapi/switch', { method: 'POST', mode, headers: { ...headers, 'Content-Type': 'text/plain' },
            body: '{"model": "beta"}' }).then((answer) => answer.status, (error) => error.name))))"""
        assert page.evaluate(ask % (play.token, ADDRESS)) == [0, 0, "TypeError", "TypeError"]
        framed = f"""new Promise((resolve) => {{ const it = document.createElement('iframe');
          it.onload = () => resolve(it.contentDocument === null); it.src = {json.dumps(ADDRESS)};
          document.body.append(it); }})"""
        assert page.evaluate(framed) is True
        assert page.evaluate("document.querySelector('iframe').contentDocument?.title ?? ''") == ""
    assert play.switches() == before


def test_text_for_people(page: Page) -> None:
    """Sizes, spans of time, and foreign text without what would drive a screen."""
    page.until("document.getElementById('token')", "the page")
    said = page.evaluate("""import('/dashboard/text.js').then(({ size, span, lasting, clean, count }) => [
      [0, 5 * 2 ** 20, 2 ** 30, 38.04 * 2 ** 30, null].map(size),
      [0, 0.031, 0.0996, 0.4, 9.96, 59.4, 59.6, 60, 130, 3600, 11100, 90000, 187200].map(span),
      [0, 0.9, 3.7, 59.9, 61].map(lasting),
      ['\x1b[31mred\x1b[0m', '\x1b]0;title\x07x', 'a\u202eb\u2066c', 'tab\tstays\x00', '<b>&amp;</b>', null].map(clean),
      [count(1, 'request'), count(2, 'request'), count(2, 'reply', 'replies')]])""")
    sizes, spans, lasting, cleaned, counted = said
    assert sizes == ["0 MiB", "5 MiB", "1.0 GiB", "38.0 GiB", "unknown"]
    assert spans[:6] == ["0 ms", "31 ms", "0.1 s", "0.4 s", "10 s", "59 s"]
    assert spans[6:] == ["1 min", "1 min", "2 min 10 s", "1 h", "3 h 5 min", "1 d 1 h", "2 d 4 h"]
    assert lasting == ["0 s", "0 s", "3 s", "59 s", "1 min 1 s"]
    assert cleaned == ["red", "x", "abc", "tab\tstays", "<b>&amp;</b>", ""]
    assert counted == ["1 request", "2 requests", "2 replies"]


def test_a_page_that_nobody_sees_lets_go_and_comes_back(page: Page) -> None:
    page.until("document.getElementById('token')", "the page")
    said = page.evaluate("""import('/dashboard/live.js').then(async ({ Live }) => {
      const said = [];
      let heard, hears = new Promise((resolve) => { heard = resolve; });
      const open = async (path, signal) => new Response(new ReadableStream({ start: (stream) => {
        said.push(path);
        signal.addEventListener('abort', () => { said.push('let go'); stream.error(signal.reason); });
      } }));
      const connected = async () => { said.push('connected'); heard(); };
      const live = new Live({ hasToken: true, open }, { connected, away: () => said.push('away') });
      live.run();
      await hears;
      live.hide(false);
      live.hide(true);
      hears = new Promise((resolve) => { heard = resolve; });
      live.hide(false);
      await hears;
      live.hide(true);
      return said;
    })""")
    once = ["api/events", "connected", "let go"]
    assert said == [*once, *once]


@pytest.mark.parametrize("width", [360, 768, 1600])
def test_it_fits_every_window(play: Play, dashboard: Dashboard, width: int) -> None:
    page = dashboard.page
    page.size(width, 800)
    page.click("Details of alpha")
    page.await_text("spark-model@alpha.service", ".catalog")
    until(
        "the page to be as wide as the window", lambda: page.evaluate("document.documentElement.scrollWidth") <= width
    )
