"""The rows of the table: what is done to the monitors, and what of the truth such a history leaves to be demanded."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

from tests.broker import RealBroker
from tests.torture.judge import Tally
from tests.torture.stage import Act, Stage, moments


class Bench:
    """What the histories of a run share: a broker, and how large everything is."""

    def __init__(self, directory: Path, *, quick: bool) -> None:
        self.directory = directory
        self.quick = quick
        self._broker: RealBroker | None = None

    @property
    def broker(self) -> RealBroker:
        """A running broker for histories that do nothing to it."""
        if self._broker is None:
            self._broker = RealBroker(self.directory / "broker")
            self._broker.start()
        return self._broker

    def size(self, quick: float, full: float) -> float:
        """One of two figures."""
        return quick if self.quick else full

    def close(self) -> None:
        """End the shared broker."""
        if self._broker is not None:
            self._broker.kill()
            self._broker.remove_data()


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
    """Kill any member at any moment, also while it takes over from another; each is replaced soon."""
    bench, chance = history.bench, None
    with Stage(bench.broker, history.directory, history.seed) as stage:
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
    with Cluster(history.directory.parent / f"cluster-{history.directory.name}") as cluster:
        with Stage(cluster, history.directory, history.seed) as stage:
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
    with ProxiedBroker(history.directory.parent / f"broker-{history.directory.name}") as broker:
        with Stage(broker, history.directory, history.seed) as stage:
            chance = stage.chance
            first = stage.join(kafka=stage.kafka(bootstrap=broker.proxy.address)).ready()
            feed = stage.play(Act(history.seed, int(bench.size(5_000, 8_000))), bench.size(14, 20))
            time.sleep(chance.uniform(2, 5))
            second = stage.join()
            broker.proxy.hold(to_client=False)  # It still hears, judges and writes; nobody hears it.
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
        if closed:
            stage.close_windows()
        stage.rest()
        running = stage.chance.random() < 0.5
        if not running:
            stage.stop_all()
        stage.make_topic_anew()
        if not running:
            stage.begin(2)
        stage.mark_when(lambda: stage.play(Act(history.seed * 1000, 4_000), 10).wait())
        stage.close_windows()
        stage.rest()
        # What was not closed has lost all its evidence.
        weakened = frozenset() if closed else first.recordings
        return stage.account(straight=False, weakened=weakened)


@row("retention", "retention passes the replay floor", quick=2, full=6)
def retention(history: History) -> Tally:
    """While nobody runs, or under the members' hands; up to the commit, or beyond what was judged."""
    bench = history.bench
    with Stage(bench.broker, history.directory, history.seed) as stage:
        stage.begin(2)
        first = Act(history.seed, int(bench.size(4_000, 10_000)))
        stage.play(first, bench.size(10, 20)).wait()
        stage.rest()
        unjudged = stage.chance.random() < 0.5
        stage.stop_all()
        reached = stage.site.committed()
        second = Act(history.seed * 1000, 2_000)
        weakened, unfinished = first.recordings, frozenset[str]()
        if unjudged:
            stage.play(second, 4).wait()
            weakened, unfinished = weakened | second.recordings, second.recordings
        ends = stage.site.ends()
        stage.delete_records(
            {p: stage.chance.randrange(end, ends[p] + 1) if unjudged else max(0, end - 50) for p, end in reached.items()}
        )
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
        elif (code := refused.stop().code) != 2:
            stage.notes.append(f"a member refused the topic with exit code {code}, not 2")
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
    """Play an act with the stamp of each message moved; a member is killed in the middle, for its replay to agree."""
    bench = history.bench
    with Stage(bench.broker, history.directory, history.seed, window="4h") as stage:
        stage.begin(2)
        act = Act(history.seed, int(bench.size(4_000, 12_000)))
        sent: dict[str, int] = {}
        skewed = []
        for number, entry in enumerate(act.entries):
            # By account, as bridges are: an account's events come by one of them. Or by its place in the account.
            sent[entry.account] = sent.get(entry.account, -1) + 1
            skew = skew_ms(sent[entry.account] if apart else list(sent).index(entry.account))
            skewed.append(entry._replace(skew_ms=skew))
            if skew and apart:
                skewed.append(Entry(entry.account, TEST_EVENT))
            del number
        act.entries = skewed
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
    """A call that enters conference after conference for 50 h of log time; members are killed on the way."""
    bench = history.bench
    with Stage(bench.broker, history.directory, history.seed, window="1h") as stage:
        stage.begin(2)
        nailed = NailedUp(history.seed, hours=50, every_s=60)
        stage.truth += nailed.truth
        feed = Feed(stage, nailed.entries(now_ms()), bench.size(20, 40))
        for _ in moments(stage.chance, feed, 3.0, 6.0):
            stage.chance.choice(stage.running()).kill()
            stage.mark()
            stage.join()
        feed.wait()
        stage.ahead_ms += 51 * 3_600_000
        # The floor of a rebuild must have moved on: else the next takeover would fold all 50 hours again.
        stage.rest()
        stage.notes += nailed.unbounded(stage.floors(), stage.site.ends())
        stage.play(Act(history.seed * 1000, 2_000), 6).wait()
        stage.close_windows(4_000_000)
        stage.rest()
        return stage.account(weakened=nailed.recordings | frozenset())


@row("fuzz-core", "200 million bytes of mutated samples, through the core")
def fuzz_core(history: History) -> Tally:
    return through_core(history.seed, int(history.bench.size(20_000_000, 200_000_000 / 3)))


@row("fuzz-kafka", "mutated samples through Kafka, good calls between them", full=2)
def fuzz_kafka(history: History) -> Tally:
    """Every recording of the good calls gets its true verdict; what could not be read is all in quarantine."""
    bench = history.bench
    with Stage(bench.broker, history.directory, history.seed) as stage:
        stage.begin(2)
        act = Act(history.seed, int(bench.size(3_000, 10_000)))
        good = list(act.entries)
        garbage = Mutator(history.seed, known=False)
        bytes_left, mixed = int(bench.size(3_000_000, 20_000_000)), []
        share = bytes_left // len(good)
        for entry in good:
            mixed.append(entry)
            spent = 0
            while spent < share:
                mutated = garbage.next()
                spent += len(mutated)
                mixed.append(Entry(f"AC{stage.chance.getrandbits(128):032x}", mutated))
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
    """Policies that say otherwise and files that are none, several a second; the last one is the built-in one's words."""
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
                stage.chance.choice(stage.running()).kill()
                stage.mark()
                stage.join()
        policy.write_text(POLICIES[0])
        for member in stage.running():
            member.ready().send(signal.SIGHUP)
        feed.wait()
        # Whoever had begun to start when it was last written has read it; the others hear of it within ten seconds.
        time.sleep(11)
        stage.close_windows()
        stage.rest()
        return stage.account(may_restate=True)


@row("disk-full", "a full disk", full=2)
def disk_full(history: History) -> Tally:
    """No byte more can be written, by one member from the start, by the other after some kilobytes of log."""
    bench = history.bench
    with Stage(bench.broker, history.directory, history.seed) as stage:
        stage.begin(1)
        stage.join_on_full_disk(0)
        stage.join_on_full_disk(20_000)
        feed = stage.play(Act(history.seed, int(bench.size(5_000, 12_000))), bench.size(15, 40))
        for _ in moments(stage.chance, feed, 4.0, 8.0):
            stage.stop(stage.members[0]) if stage.members[0].running else stage.mark()
        feed.wait()
        stage.mark()
        stage.close_windows()
        stage.rest()
        if len(stage.running()) != 2:
            stage.notes.append("a member did not survive a full disk")
        return stage.account()
