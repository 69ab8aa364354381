"""The rows of the table: what is done to the monitors, and what of the truth such a history leaves to be demanded."""

from __future__ import annotations

import contextlib
import random
import signal
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any, Final, NamedTuple, Self

from monitor.core.policy import BUILT_IN_POLICY
from monitor.inputs.kafka import render_tick
from tests.alerting import Alerting
from tests.broker import RealBroker, free_ports
from tests.fault_proxy import FaultProxy
from tests.ingest_load import Outcome, bad_network, bridge_killed, broker_away, forgeries
from tests.member import recording_sid
from tests.monitors import PROGRAM, Monitor
from tests.paging import Scene, kill_at_random
from tests.torture.brokers import Cluster, ProxiedBroker
from tests.torture.fuzz import Mutator, through_core
from tests.torture.judge import COMMITS_TOPIC, Tally
from tests.torture.nailed import Endless, Shift
from tests.torture.stage import GRACE_S, PAST_GRACE_MS, PAST_WINDOW_MS, Act, Entry, Feed, Stage, moments, now_ms, until


class Bench:
    """What the histories of a run share: a broker, and how large everything is."""

    def __init__(self, directory: Path, *, quick: bool) -> None:
        self.directory = directory
        self.quick = quick
        self.broker = RealBroker(directory / "broker")
        """A broker for histories that do nothing to it; it runs from ``start`` to ``close``."""

    def start(self) -> None:
        """Start the shared broker, on the main thread: it ends with the thread that started it."""
        self.broker.start()

    def size(self, quick: float, full: float) -> float:
        """One of two figures."""
        return quick if self.quick else full

    def close(self) -> None:
        """End the shared broker."""
        self.broker.kill()
        self.broker.remove_data()


class History(NamedTuple):
    """One history to be tried."""

    bench: Bench
    directory: Path
    seed: int


Try = Callable[[History], Tally]


class Row(NamedTuple):
    """A line of the table. ``quick`` and ``full`` are how many histories are tried."""

    name: str
    title: str
    quick: int
    full: int
    attempt: Try


ROWS: Final[list[Row]] = []


def row(name: str, title: str, *, quick: int = 1, full: int = 3) -> Callable[[Try], Try]:
    """Enter a history into the table."""

    def enter(attempt: Try) -> Try:
        ROWS.append(Row(name, title, quick, full, attempt))
        return attempt

    return enter


@row("nothing", "nothing happens", full=2)
def nothing(history: History) -> Tally:
    bench = history.bench
    with Stage(bench.broker, history.directory, history.seed) as stage:
        stage.begin(2)
        feed = stage.play(Act(history.seed, int(bench.size(3_000, 20_000))), bench.size(8, 50))
        feed.wait()
        stage.close_windows()
        stage.rest()
        return stage.account()


@row("kill-two", "kill -9 at random, two members", full=5)
def kill_two(history: History) -> Tally:
    return _kill(history, 2)


@row("kill-three", "kill -9 at random, three members", full=5)
def kill_three(history: History) -> Tally:
    return _kill(history, 3)


def _kill(history: History, members: int) -> Tally:
    """Kill any member at any moment, also while it takes over from another; each is replaced soon.

    In full, the broker stamps the messages of every other history, and the window's minute is waited for. In two of
    three, members write snapshots into one directory, and takeovers begin with whatever they find there.
    """
    bench = history.bench
    by_broker = not bench.quick and history.seed % 2 == 0
    snapshots: dict[str, Any] = {"directory": str(history.directory / "snapshots"), "every": "1s"}
    settings: dict[str, Any] = {"snapshots": snapshots} if history.seed % 3 else {}
    with Stage(bench.broker, history.directory, history.seed, stamped_by_broker=by_broker, **settings) as stage:
        chance = stage.chance
        stage.begin(members)
        for number in range(int(bench.size(1, 2))):
            act = Act(history.seed * 1000 + number, int(bench.size(8_000, 14_000)))
            feed = stage.play(act, bench.size(25, 45))
            for _ in moments(chance, feed, 0.5, 7.0):
                chance.choice(stage.running()).kill()
                stage.mark()
                if chance.random() < 0.5:
                    stage.join()
                    continue
                # Sometimes the others must do without it for a while, or it dies again before it has begun.
                while len(stage.running()) < members:
                    stage.join()
            while len(stage.running()) < members:
                stage.join()
            feed.wait()
            stage.close_windows()
        stage.rest()
        return stage.account()


@row("frozen", "SIGSTOP for longer than the poll interval, and woken", full=3)
def frozen(history: History) -> Tally:
    bench = history.bench
    client = {"max.poll.interval.ms": "4000"}
    with Stage(bench.broker, history.directory, history.seed, client=client) as stage:
        stage.begin(2)
        feed = stage.play(Act(history.seed, int(bench.size(6_000, 14_000))), bench.size(22, 50))
        for _ in moments(stage.chance, feed, 1.0, 4.0):
            member = stage.chance.choice(stage.running())
            member.send(signal.SIGSTOP)
            stage.mark()
            for _ in moments(stage.chance, feed, 6.0, 8.0):
                break
            member.send(signal.SIGCONT)
            stage.mark()
        feed.wait()
        stage.close_windows()
        stage.rest()
        return stage.account()


@row("joins", "a member joins or leaves every 5 s", full=1)
def joins(history: History) -> Tally:
    """For five minutes, in full: between one and four members, who leave in good order."""
    bench = history.bench
    with Stage(bench.broker, history.directory, history.seed) as stage:
        stage.begin(1)
        for number in range(int(bench.size(1, 6))):
            act = Act(history.seed * 1000 + number, int(bench.size(6_000, 14_000)))
            feed = stage.play(act, bench.size(30, 50))
            for _ in moments(stage.chance, feed, 5.0, 5.0):
                here = stage.running()
                if len(here) == 1 or (len(here) < 4 and stage.chance.random() < 0.5):
                    stage.join()
                else:
                    stage.stop(stage.chance.choice(here))
                stage.mark()
            feed.wait()
            stage.close_windows()
        stage.rest()
        return stage.account()


@row("broker-killed", "the broker killed, and back after 30 s", full=3)
def broker_killed(history: History) -> Tally:
    bench = history.bench
    with _own_broker(history) as broker, Stage(broker, history.directory, history.seed) as stage:
        stage.begin(2)
        feed = stage.play(Act(history.seed, int(bench.size(6_000, 14_000))), bench.size(12, 25))
        time.sleep(stage.chance.uniform(2, 8))
        broker.kill()
        time.sleep(bench.size(8, 30))
        broker.start()
        stage.mark()
        feed.wait()
        stage.close_windows()
        stage.rest()
        return stage.account()


@row("leader-killed", "three brokers, the leader killed", full=3)
def leader_killed(history: History) -> Tally:
    """Each time the one that leads a partition chosen at random, of the events or of the group's commits."""
    bench = history.bench
    with (
        Cluster(history.directory.parent / f"cluster-{history.directory.name}") as cluster,
        Stage(cluster, history.directory, history.seed) as stage,
    ):
        stage.begin(2)
        feed = stage.play(Act(history.seed, int(bench.size(6_000, 14_000))), bench.size(20, 50))
        for _ in moments(stage.chance, feed, 2.0, 5.0):
            chosen = stage.chance.choice([(stage.site.events, stage.chance.randrange(4)), (COMMITS_TOPIC, 0)])
            node = cluster.leader(*chosen)
            node.kill()
            stage.mark()
            time.sleep(stage.chance.uniform(2, 6))
            node.launch()
            cluster.whole(stage.site.events)
            cluster.whole(COMMITS_TOPIC)
        feed.wait()
        stage.close_windows()
        stage.rest()
        return stage.account()


@row("slow", "the broker behind a slow connection", full=2)
def slow(history: History) -> Tally:
    """Each piece 50 to 300 ms late in each direction, and for a time 20 kB a second."""

    def harm(stage: Stage, proxy: FaultProxy) -> None:
        proxy.slow(latency_s=stage.chance.uniform(0.05, 0.3), bytes_per_s=stage.chance.choice([None, 20_000.0]))
        time.sleep(stage.chance.uniform(3, 6))
        proxy.heal()

    return _through_proxy(history, harm)


@row("cut", "connections to the broker cut", full=2)
def cut(history: History) -> Tally:
    """All of a sudden, again and again; sometimes new ones are refused for some seconds."""

    def harm(stage: Stage, proxy: FaultProxy) -> None:
        for _ in range(stage.chance.randrange(1, 4)):
            proxy.cut(refuse=stage.chance.random() < 0.5)
            time.sleep(stage.chance.uniform(0.1, 3))
            proxy.heal()

    return _through_proxy(history, harm)


@row("black-hole", "the broker's connections a black hole", full=2)
def black_hole(history: History) -> Tally:
    """Nothing comes through, in one direction or both, for up to three session timeouts; then all of it, or a cut."""

    def harm(stage: Stage, proxy: FaultProxy) -> None:
        to_broker, to_client = stage.chance.choice([(True, True), (True, False), (False, True)])
        proxy.hold(to_broker=to_broker, to_client=to_client)
        time.sleep(stage.chance.uniform(1, 9))
        if stage.chance.random() < 0.5:
            proxy.cut()
        proxy.heal()

    return _through_proxy(history, harm)


def _through_proxy(history: History, harm: Callable[[Stage, FaultProxy], None]) -> Tally:
    """Two members that reach their broker by a bad network, while the load takes the good one."""
    bench = history.bench
    client = {"socket.timeout.ms": "10000"}  # Else a client waits a minute for an answer that was lost.
    with ProxiedBroker(history.directory.parent / f"broker-{history.directory.name}") as broker:
        through = broker.proxy.address
        with Stage(broker, history.directory, history.seed, client=client, members_bootstrap=through) as stage:
            stage.begin(2)
            feed = stage.play(Act(history.seed, int(bench.size(6_000, 14_000))), bench.size(25, 50))
            for _ in moments(stage.chance, feed, 1.0, 4.0):
                harm(stage, broker.proxy)
                stage.mark()
            feed.wait()
            stage.close_windows()
            stage.rest()
            return stage.account()


@row("zombie", "a zombie writes its verdicts late", quick=2, full=10)
def zombie(history: History) -> Tally:
    """A member's last words are held on the way while it is frozen, and arrive when another has judged the same."""
    bench = history.bench
    with (
        ProxiedBroker(history.directory.parent / f"broker-{history.directory.name}") as broker,
        Stage(broker, history.directory, history.seed) as stage,
    ):
        chance = stage.chance
        first = stage.join(kafka=stage.kafka(bootstrap=broker.proxy.address)).ready()
        feed = stage.play(Act(history.seed, int(bench.size(5_000, 8_000))), bench.size(14, 20))
        time.sleep(chance.uniform(2, 5))
        second = stage.join()
        broker.proxy.hold_writes()  # It still reads and judges; nobody hears it.
        time.sleep(chance.uniform(0.2, 2.5))
        first.send(signal.SIGSTOP)
        stage.mark()
        second.ready(stage.site.partitions)
        if chance.random() < 0.5:
            feed.wait()
            stage.close_windows()  # The other may even have made them final.
        time.sleep(chance.uniform(0.5, 3))
        broker.proxy.heal()
        time.sleep(chance.uniform(0, 2))
        first.send(signal.SIGCONT)
        stage.mark()
        feed.wait()
        stage.close_windows()
        stage.rest()
        return stage.account()


@row("reset", "offsets reset by a tool", quick=2, full=6)
def reset(history: History) -> Tally:
    """To somewhere in what was judged: no metadata says where the fold has to begin."""
    bench = history.bench
    with Stage(bench.broker, history.directory, history.seed) as stage:
        for number in range(2):
            stage.begin(2)
            act = Act(history.seed * 1000 + number, int(bench.size(4_000, 10_000)))
            stage.play(act, bench.size(10, 20)).wait()
            if stage.chance.random() < 0.5:
                stage.close_windows()
            stage.rest()
            stage.stop_all()
            reached = stage.site.committed()
            stage.commit({partition: stage.chance.randrange(end + 1) for partition, end in reached.items()})
        stage.begin(2)
        stage.mark()
        stage.close_windows()
        stage.rest()
        return stage.account()


@row("expired", "the committed offset expired", quick=2, full=6)
def expired(history: History) -> Tally:
    """The group is gone; ``start_at`` says where to begin: at the beginning, or a window before the start."""
    bench = history.bench
    with Stage(bench.broker, history.directory, history.seed) as stage:
        stage.begin(2)
        stage.play(Act(history.seed, int(bench.size(4_000, 10_000))), bench.size(10, 20)).wait()
        closed = stage.chance.random() < 0.5
        if closed:
            stage.close_windows()
        stage.rest()
        stage.stop_all()
        stage.delete_group()
        start_at = "earliest" if stage.chance.random() < 0.5 else "10m"
        members = [stage.join(kafka=stage.kafka(start_at=start_at)) for _ in range(2)]
        for member in members:
            member.ready()
        stage.mark()
        stage.play(Act(history.seed * 1000, 2_000), 5).wait()
        stage.close_windows()
        stage.rest()
        return stage.account()


@row("made-anew", "the topic made anew under the members", quick=2, full=6)
def made_anew(history: History) -> Tally:
    """Deleted and created again while they run, or while nobody does; what was told of the old one stands."""
    bench = history.bench
    with Stage(bench.broker, history.directory, history.seed) as stage:
        stage.begin(2)
        first = Act(history.seed, int(bench.size(4_000, 10_000)))
        stage.play(first, bench.size(10, 20)).wait()
        closed = stage.chance.random() < 0.5
        # Of what is lost before its grace was over nothing is ever said.
        stage.close_windows(PAST_WINDOW_MS if closed else PAST_GRACE_MS)
        stage.rest()
        running = stage.chance.random() < 0.5
        if not running:
            stage.stop_all()
        broker, events = bench.broker, stage.site.events
        config = {"message_timestamp_type": "CreateTime", "message_timestamp_after_max_ms": str(2**63 - 1)}
        stage.make_topic_anew(lambda: broker.create_topic(events, stage.site.partitions, retention_ms="-1", **config))
        if not running:
            stage.begin(2)
        stage.play(Act(history.seed * 1000, 4_000), 10).wait()
        stage.mark()
        stage.close_windows()
        stage.rest()
        # What was not closed has lost all its evidence.
        weakened = frozenset[str]() if closed else first.recordings
        return stage.account(straight=False, weakened=weakened)


@row("retention", "retention passes the replay floor", quick=2, full=6)
def retention(history: History) -> Tally:
    """While nobody runs, or under the members' hands; up to the commit, or beyond what was judged."""
    bench = history.bench
    with Stage(bench.broker, history.directory, history.seed) as stage:
        stage.begin(2)
        first = Act(history.seed, int(bench.size(4_000, 10_000)))
        stage.play(first, bench.size(10, 20)).wait()
        # Past every grace: a recording about which nothing has been said yet could be lost with its evidence.
        stage.close_windows(past_ms=(GRACE_S + 1) * 1000)
        stage.rest()
        unjudged = stage.chance.random() < 0.5
        stage.stop_all()
        reached = stage.site.committed()
        second = Act(history.seed * 1000, 2_000)
        weakened, unfinished = first.recordings, frozenset[str]()
        if unjudged:
            stage.play(second, 4).wait()
            weakened, unfinished = weakened | second.recordings, second.recordings
        ends = stage.ends()
        if unjudged:
            stage.delete_records({p: stage.chance.randrange(end, ends[p] + 1) for p, end in reached.items()})
        else:
            stage.delete_records({p: max(0, end - 50) for p, end in reached.items()})
        stage.begin(2)
        stage.mark()
        stage.close_windows()
        # By now the loss is over: what begins here is judged as well as ever.
        stage.play(Act(history.seed * 1000 + 1, int(bench.size(4_000, 10_000))), bench.size(10, 20)).wait()
        stage.close_windows()
        stage.rest()
        return stage.account(straight=False, weakened=weakened, unfinished=unfinished)


@row("partitions", "partitions added: refused until re-keyed", full=2)
def partitions(history: History) -> Tally:
    """A member that starts says so and ends with exit code 2; those that run tell nothing wrong."""
    bench = history.bench
    with Stage(bench.broker, history.directory, history.seed) as stage:
        stage.begin(2)
        stage.play(Act(history.seed, int(bench.size(4_000, 10_000))), bench.size(10, 20)).wait()
        stage.close_windows()
        stage.rest()
        stage.stop_all()
        stage.add_partitions(6)
        refused = stage.join()
        if not until(lambda: not refused.running, 60):
            stage.notes.append("a member runs on a topic with partitions added")
        elif (code := refused.stop()) != 2:
            stage.notes.append(f"a member refused the topic with exit code {code}, not 2")
        stage.members.remove(refused)  # Its log says why it ended, as it should.
        return stage.account()


@row("clock-ahead", "messages stamped by a clock an hour ahead", full=2)
def clock_ahead(history: History) -> Tally:
    """One of two bridges is an hour and a minute ahead; the window is the usual four hours."""
    return _with_stamps(history, lambda number: 61 * 60_000 if number % 2 else 0)


@row("clock-behind", "messages stamped by a clock an hour behind", full=2)
def clock_behind(history: History) -> Tally:
    """One of two bridges is an hour and a minute behind."""
    return _with_stamps(history, lambda number: -61 * 60_000 if number % 2 else 0)


@row("year-2060", "messages stamped 2060", full=2)
def year_2060(history: History) -> Tally:
    """One message in a hundred, never two in a row: two in a row are a clock that log time follows."""
    return _with_stamps(history, lambda number: 34 * 365 * 86_400_000 if number % 100 == 50 else 0, apart=True)


def _with_stamps(history: History, skew_ms: Callable[[int], int], *, apart: bool = False) -> Tally:
    """Play an act with the stamps of messages moved; members are killed meanwhile, for their replays to agree.

    ``skew_ms`` is asked with the number of the account, whose events all come by one bridge; ``apart``: with the place
    of the message in its account, and then a tick of the right time stands behind each message that is moved.
    """
    bench = history.bench
    with Stage(bench.broker, history.directory, history.seed, window="4h") as stage:
        stage.begin(2)
        act = Act(history.seed, int(bench.size(4_000, 12_000)))
        sent: dict[str, int] = {}
        moved = []
        for entry in act.entries:
            sent[entry.account] = sent.get(entry.account, -1) + 1
            skew = skew_ms(sent[entry.account] if apart else list(sent).index(entry.account))
            moved.append(entry._replace(skew_ms=skew))
            if skew and apart:
                moved.append(Entry(entry.account, render_tick(0, by="torture", sent_at=datetime.now(UTC))))
        act.entries = moved
        feed = stage.play(act, bench.size(12, 30))
        for _ in moments(stage.chance, feed, 4.0, 8.0):
            stage.chance.choice(stage.running()).kill()
            stage.mark()
            stage.join()
        feed.wait()
        stage.ahead_ms += 2 * 3_600_000
        stage.close_windows(6 * 3_600_000)
        stage.rest()
        return stage.account()


@row("endless", "a conversation that never ends", full=2)
def endless(history: History) -> Tally:
    """A call that stays in its conference for 50 h of log time; members are killed on the way."""
    bench = history.bench
    with Stage(bench.broker, history.directory, history.seed, window="1h") as stage:
        stage.begin(2)
        call = Endless(history.seed, hours=50, every_s=60)
        stage.truth += call.truth
        begun_ms = now_ms()
        feed = Feed(stage, call.entries(begun_ms), bench.size(20, 40))
        for _ in moments(stage.chance, feed, 3.0, 6.0):
            stage.chance.choice(stage.running()).kill()
            stage.mark()
            stage.join()
        feed.wait()
        stage.rest()
        stage.notes += call.unbounded(stage.commits())
        # The other partitions follow; then whoever calls now is judged as well as ever.
        stage.close_windows(52 * 3_600_000)
        stage.play(Act(history.seed * 1000, 2_000), 6).wait()
        stage.close_windows(2 * 3_600_000)
        stage.rest()
        return stage.account(weakened=call.recordings)


@row("nailed", "20 agents whose calls stay up for 30 h", full=2)
def nailed_up(history: History) -> Tally:
    """Their legs enter conference after conference, customers are transferred; members are killed on the way.

    The window is that of the settings: in one of a minute nobody could know of what comes an hour late.
    """
    bench = history.bench
    with Stage(bench.broker, history.directory, history.seed, window="4h") as stage:
        stage.begin(2)
        agents, hours = (6, 8) if bench.quick else (20, 30)
        shift = Shift(history.seed, agents=agents, hours=hours)
        stage.truth += shift.truth
        late_ms = stage.chance.choice((0, 600_000, 3_600_000))
        feed = Feed(stage, shift.entries(now_ms(), late_ms=late_ms), bench.size(20, 120))
        for _ in moments(stage.chance, feed, bench.size(3, 12), bench.size(6, 24)):
            stage.chance.choice(stage.running()).kill()
            stage.mark()
            stage.join()
        feed.wait()
        stage.close_windows((hours + 6) * 3_600_000)
        stage.rest()
        return stage.account()


@row("fuzz-core", "200 million bytes of mutated samples, through the core")
def fuzz_core(history: History) -> Tally:
    bytes_wanted = int(history.bench.size(20_000_000, 200_000_000 / 3 + 1))
    return through_core(history.seed, bytes_wanted, history.directory)


@row("fuzz-kafka", "mutated samples through Kafka, good calls between them", full=2)
def fuzz_kafka(history: History) -> Tally:
    """Every recording of the good calls gets its true verdict; what could not be read is all in quarantine."""
    bench = history.bench
    with Stage(bench.broker, history.directory, history.seed) as stage:
        stage.begin(2)
        act = Act(history.seed, int(bench.size(3_000, 10_000)))
        garbage = Mutator(history.seed)
        share = bench.size(3_000_000, 20_000_000) / len(act.entries)
        mixed, spent = [], 0
        for number, entry in enumerate(act.entries):
            mixed.append(entry)
            while spent < share * number:
                mutated = garbage.next()
                spent += len(mutated)
                # The samples' accounts must stay in one partition, as they would with their own key.
                mixed.append(Entry("fuzz", mutated))
        act.entries = mixed
        feed = stage.play(act, bench.size(15, 40))
        for _ in moments(stage.chance, feed, 5.0, 9.0):
            stage.chance.choice(stage.running()).kill()
            stage.mark()
            stage.join()
        feed.wait()
        stage.close_windows()
        stage.rest()
        return stage.account(others=True)


@row("reloads", "the policy reloaded under load", full=2)
def reloads(history: History) -> Tally:
    """Policies that say otherwise and files that are none, several a second; the last is the built-in one's text."""
    bench = history.bench
    policy = history.directory.parent / f"policy-{history.directory.name}.yaml"
    policy.write_text(POLICIES[0])
    with Stage(bench.broker, history.directory, history.seed, policy=str(policy)) as stage:
        stage.begin(2)
        feed = stage.play(Act(history.seed, int(bench.size(5_000, 12_000))), bench.size(18, 40))
        for number, _ in enumerate(moments(stage.chance, feed, 0.05, 0.8)):
            policy.write_text(stage.chance.choice(POLICIES))
            for member in stage.running():
                member.send(signal.SIGHUP)
            if number % 20 == 10:
                policy.write_text(POLICIES[0])  # Nobody starts with a policy that is none.
                stage.chance.choice(stage.running()).kill()
                stage.mark()
                stage.join().ready()
        policy.write_text(POLICIES[0])
        for member in stage.running():
            member.send(signal.SIGHUP)
        feed.wait()
        # Whoever had begun to start when it was last written has read it; the others hear of it within ten seconds.
        time.sleep(11)
        stage.close_windows()
        stage.rest()
        return stage.account()


@row("disk-full", "a full disk", full=2)
def disk_full(history: History) -> Tally:
    """No log can be written, by one member from the start, by the other after some kilobytes."""
    bench = history.bench
    with Stage(bench.broker, history.directory, history.seed) as stage:
        stage.begin(1)
        full = [_on_full_disk(stage, "exec > /dev/full 2>&1"), _on_full_disk(stage, "ulimit -f 8")]
        for member in full:
            member.ready()
        feed = stage.play(Act(history.seed, int(bench.size(5_000, 12_000))), bench.size(15, 40))
        time.sleep(bench.size(4, 10))
        stage.stop(stage.members[0])
        stage.mark()
        feed.wait()
        stage.mark()
        stage.close_windows()
        stage.rest()
        for member in full:
            if not member.running:
                stage.notes.append(f"it did not survive a full disk: {member.log.name}")
            else:
                stage.stop(member)
        return stage.account()


@row("paging-killed", "kill -9 between a verdict and its page", quick=1, full=2)
def paging_killed(history: History) -> Tally:
    """Twenty kills, each somewhere between the message and the page: every recording paged, none twice."""
    chance = random.Random(history.seed)
    count = int(history.bench.size(5, 20))
    with Alerting(history.directory / "alerting") as alerting:
        scene = Scene(history.bench.broker, history.directory / "site", alerting)
        settings = {"cases": {"database": "cases.sqlite3"}}
        kill_at_random(scene, range(1, count + 1), chance, **settings)
        wanted = {recording_sid(number) for number in range(1, count + 1)}
        with scene.monitor(**settings) as monitor:
            monitor.ready()
            until(lambda: scene.notified() >= wanted, 60)
            for number in range(1, count + 1):
                scene.end(number)
            until(lambda: scene.notified("resolved") >= wanted, 60)
            monitor.stop()
        return Tally(
            verdicts=count,
            lost=sorted(wanted - scene.notified()),
            faults=[f"not resolved: {sid}" for sid in sorted(wanted - scene.notified("resolved"))],
            repeated=scene.told_twice(),
            harm=count,
        )


class _Silent(Monitor):
    """A member whose log can't be read: its address has been settled before."""

    def __init__(self, command: list[str], log: Path, port: int) -> None:
        super().__init__(command, log)
        self._port = port

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def ready(self, owned: int | None = None) -> Self:
        del owned

        def is_so() -> bool:
            with contextlib.suppress(OSError, urllib.error.URLError):
                return self.get("/-/ready")[0] == 200
            return False

        if not until(is_so, 60):
            raise RuntimeError(f"a member without a log is not ready; see {self.log}")
        return self


def _on_full_disk(stage: Stage, limit: str) -> Monitor:
    """A member started by a shell that has first given it a limit."""
    [port] = free_ports(1)
    config = stage.site.config(kafka=stage.kafka(), web={"listen": f"127.0.0.1:{port}"})
    run = [sys.executable, "-c", PROGRAM, "run", "--config", str(config)]
    member = _Silent(["/bin/sh", "-c", f'{limit}; exec "$@"', "sh", *run], config.with_suffix(".log"), port)
    stage.members.append(member)
    return member


@contextlib.contextmanager
def _own_broker(history: History) -> Iterator[RealBroker]:
    broker = RealBroker(history.directory.parent / f"broker-{history.directory.name}")
    broker.start()
    try:
        yield broker
    finally:
        broker.kill()
        broker.remove_data()


# The last words must be those of the built-in policy, with which the truth agrees.
POLICIES: Final = (
    BUILT_IN_POLICY,
    "policy: all-allowed\nmode: observe\ndefault: allowed\nwhen_open: undetermined\nrules: []\n",
    (
        "policy: by-source\nmode: enforce\ndefault: disallowed\nwhen_open: disallowed\nrules:\n"
        "  - {name: voicemail, outcome: allowed, when: {cause: record_verb}}\n"
        "  - {name: any-conference, outcome: disallowed, severity: critical, when: {start_source: Conference}}\n"
    ),
    "policy: broken\nmode: enforce\nrules: [",
    "policy: misspelt\nmode: enforce\ndefault: disallowed\nwhen_opne: allowed\n",
    "",
)


# ---- the webhook bridge: what it has acknowledged, instead of verdicts ----------------------------------------------


def _bridged(outcome: Outcome, harm: int) -> Tally:
    """A history of the bridge in the table's terms: events for verdicts; what is thrown away breaks a promise."""
    faults = [f"answered {status}: thrown away" for status in outcome.refused]
    if outcome.unanswered:
        faults.append(f"{outcome.unanswered} requests were not answered within 5 s")
    return Tally(verdicts=outcome.acknowledged, lost=outcome.lost, faults=faults, again=outcome.again, harm=harm)


@row("ingest-broker-away", "the bridge's broker killed, and back after a minute", full=2)
def ingest_broker_away(history: History) -> Tally:
    bench = history.bench
    directory = history.directory.parent / f"broker-{history.directory.name}"
    away_s, load_s = bench.size(10, 60), bench.size(15, 100)
    return _bridged(broker_away(directory, away_s=away_s, load_s=load_s, per_second=bench.size(50, 150)), 1)


@row("ingest-bad-network", "the bridge's way to the broker held, cut, slowed", full=2)
def ingest_bad_network(history: History) -> Tally:
    bench = history.bench
    directory = history.directory.parent / f"broker-{history.directory.name}"
    faults = int(bench.size(2, 10))
    return _bridged(bad_network(directory, Random(history.seed), faults=faults, fault_s=6, per_second=40), faults)


@row("ingest-killed", "kill -9 of the bridge under load", full=2)
def ingest_killed(history: History) -> Tally:
    bench = history.bench
    kills, load_s = int(bench.size(2, 20)), bench.size(10, 120)
    outcome = bridge_killed(bench.broker, history.directory, kills=kills, load_s=load_s, per_second=100)
    return _bridged(outcome, kills)


@row("ingest-forged", "forged requests at the bridge, over the wire", full=1)
def ingest_forged(history: History) -> Tally:
    """What comes into the topic of a request that nobody signed is a broken promise."""
    count = int(history.bench.size(500, 10_000))
    came = forgeries(history.bench.broker, history.directory, Random(history.seed), count)
    return Tally(verdicts=count, faults=[f"a forgery was answered {status}" for status in came], harm=count)
