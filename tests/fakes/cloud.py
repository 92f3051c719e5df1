"""A region of a cloud, as a model: pools with capacity and prices, instances that boot, are pre-empted and end, quotas,
client tokens that are really idempotent, and a bill. No HTTP in here (fake_cloud.py), no clock of its own: `now` is Unix
seconds, given by whoever asks. Durations are divided by `scale`, so that a day of a trace fits into minutes."""

import random
import threading


class Refused(Exception):
    """An error of the API, by its code (ec2/errors.txt)."""

    def __init__(self, code, message=None):
        super().__init__(code)
        self.code = code
        self.message = message


STATES = {"pending": 0, "running": 16, "shutting-down": 32, "terminated": 48, "stopping": 64, "stopped": 80}


class Pool:
    """One type in one zone, spot: how many can run, and what they cost from when on."""

    def __init__(self, zone, kind, capacity=1000, price="0.10"):
        self.zone = zone
        self.kind = kind
        self.capacity = capacity
        self.series = [(0, price)]  # (Unix seconds, dollars an hour), ascending

    def price_at(self, at):
        return [price for since, price in self.series if since <= at][-1]


class Instance:
    def __init__(self, cloud, pool, market, now, fields):
        n = cloud.serial
        cloud.serial += 1
        self.id = f"i-{cloud.random.getrandbits(36):09x}{n:08x}"
        self.ip = f"{cloud.network}.{n // 250 % 250}.{n % 250 + 1}"
        self.pool = pool
        self.market = market
        self.launched = int(now)
        self.launched_exactly = now
        self.visible_at = now + cloud.visible_after
        self.running_at = now + cloud.boot_s / cloud.scale
        self.ended = None
        self.reason = ""
        self.state = "pending"
        self.fields = fields  # image, user data, token, tags, ...
        self.tags = dict(fields["tags"])
        self.on_demand = cloud.on_demand.get(pool.kind, "1.00")
        self.preempt_at = None  # when it ends, after its notice
        self.noticed_at = None
        self.rebalance_at = None
        self.machine = None  # what runs on it (fake_cloud.py)

    @property
    def alive(self):
        return self.state in ("pending", "running")


def picodollars(price):
    whole, _, part = price.partition(".")
    return int(whole) * 10**12 + int((part + "0" * 12)[:12])


class Cloud:
    def __init__(self, seed=1, scale=1.0, boot_s=30.0, network="127.77", visible_after=0.0):
        self.random = random.Random(seed)
        self.scale = scale
        self.boot_s = boot_s
        self.network = network
        self.visible_after = visible_after  # eventual consistency: a new instance is unknown for so long
        self.pools = {}
        self.on_demand = {}  # type: dollars an hour
        self.on_demand_capacity = {}  # (zone, type): how many; without: any number
        self.quota = {}  # market: instances
        self.instances = {}
        self.serial = 0
        self.answers = {}  # (action, token): (what was asked, what was answered)
        self.templates = {}
        self.lock = threading.RLock()
        self.most_running = 0
        self.most_hour = 0  # pico-dollars an hour of all that ran at once
        self.on_start = lambda instance: None
        self.on_stop = lambda instance: None
        self.billing_min_s = 60  # "Per-second billing, with a minimum of 60 seconds" (Amazon EC2 pricing)
        self.launches = 0
        self.repeats = 0  # calls that were answered by their client token

    def add_pool(self, zone, kind, capacity=1000, price="0.10", on_demand="0.30"):
        self.pools[zone, kind] = Pool(zone, kind, capacity, price)
        self.on_demand[kind] = on_demand

    # ---- launches

    def running_in(self, pool, market):
        return sum(i.alive and i.pool is pool and i.market == market for i in self.instances.values())

    def shortage(self, pool, market, max_price, now):
        """The code that says why this pool has none; None: it has one."""
        if self.quota.get(market) is not None:
            if sum(i.alive and i.market == market for i in self.instances.values()) >= self.quota[market]:
                return "MaxSpotInstanceCountExceeded" if market == "spot" else "VcpuLimitExceeded"
        if market == "spot":
            if max_price and picodollars(max_price) < picodollars(pool.price_at(now)):
                return "SpotMaxPriceTooLow"
            return None if self.running_in(pool, market) < pool.capacity else "InsufficientInstanceCapacity"
        most = self.on_demand_capacity.get((pool.zone, pool.kind))
        return None if most is None or self.running_in(pool, market) < most else "InsufficientInstanceCapacity"

    def launch(self, pool, market, now, fields):
        instance = Instance(self, pool, market, now, fields)
        self.instances[instance.id] = instance
        self.launches += 1
        there = [i for i in self.instances.values() if i.alive]
        self.most_running = max(self.most_running, len(there))
        self.most_hour = max(self.most_hour, sum(
            picodollars(i.pool.price_at(now) if i.market == "spot" else i.on_demand) for i in there))
        return instance

    def idempotent(self, action, token, asked, do):
        """The answer that this token had before; another question with it is refused."""
        key = (action, token)
        if token and key in self.answers:
            before, answer = self.answers[key]
            if before != asked:
                raise Refused("IdempotentParameterMismatch")
            self.repeats += 1
            return answer
        answer = do()
        if token:
            self.answers[key] = (asked, answer)
        return answer

    # ---- time

    def end(self, instance, now, reason, state="shutting-down"):
        if instance.state in ("shutting-down", "terminated"):
            return
        instance.state = state
        instance.ended = int(now)
        instance.reason = reason
        self.on_stop(instance)

    def notice(self, instance, now, notice_s):
        """A spot interruption notice; the end comes notice_s (unscaled) later."""
        instance.noticed_at = now
        instance.preempt_at = now + notice_s / self.scale

    def set_capacity(self, zone, kind, capacity, now, notice_s=120.0):
        """What the market gives. More that run than that are taken back, after a notice."""
        pool = self.pools[zone, kind]
        pool.capacity = capacity
        there = [i for i in self.instances.values()
                 if i.alive and i.pool is pool and i.market == "spot" and i.preempt_at is None]
        self.random.shuffle(there)
        for instance in there[: max(0, len(there) - capacity)]:
            self.notice(instance, now, notice_s)

    def tick(self, now):
        for i in list(self.instances.values()):
            if i.state == "pending" and now >= i.running_at:
                i.state = "running"
                self.on_start(i)
            if i.alive and i.preempt_at is not None and now >= i.preempt_at:
                self.end(i, now, "Server.SpotInstanceTermination")
            if i.state == "shutting-down" and now >= i.ended + 10 / self.scale:
                i.state = "terminated"

    # ---- money

    def cost(self, instance, now):
        """Pico-dollars: each second at the price that held in it."""
        end = instance.ended if instance.ended is not None else int(now)
        if instance.ended is not None:
            end = max(end, min(instance.launched + self.billing_min_s, int(now)))
        if instance.market != "spot":
            return (end - instance.launched) * picodollars(instance.on_demand) // 3600
        total = 0
        steps = [at for at, _ in instance.pool.series if instance.launched < at < end]
        for since, until in zip([instance.launched] + steps, steps + [end]):
            total += max(0, until - since) * picodollars(instance.pool.price_at(since))
        return total // 3600

    def bill(self, now):
        return sum(self.cost(i, now) for i in self.instances.values())
