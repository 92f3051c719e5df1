-- Budgets that several schedulers share: every step is one call of this script, so it happens whole or not at all. The
-- arithmetic is that of policies/budget.h.
--
-- Amounts. Lua's numbers are doubles, exact only up to 2^53, and a budget is up to 2^63 pico-dollars. So an amount is two
-- whole numbers {hi, lo} with value hi * 1e9 + lo and 0 <= lo < 1e9, both of them exact: |hi| <= 9.3e9 for any int64, and
-- sums stay exact up to |hi| = 2^53, which is 1e15 such amounts. A sum carries at most one from lo to hi. Where lo is
-- always in its range, amounts compare by hi, then by lo. In keys and replies they are decimal texts.
--
-- KEYS[1]  epoch      text: which life of these budgets this is. Not there: closed until rebuilt
-- KEYS[2]  state      hash: tokens (fencing tokens given out), beat_ms (newest heartbeat of anybody), grace_ms
-- KEYS[3]  instances  hash: scheduler instance -> cmsgpack {token, seen_ms}
-- KEYS[4]  rebuilding hash: epoch (the next), and each ledger that has told its part
-- of one epoch, whose name is in them, so that nothing of another life is ever seen:
-- KEYS[5]  limits     hash: budget -> limits that were set at run time, "hard soft", "-1": the configured one
-- KEYS[6]  held by the calling instance, hash: reservation -> cmsgpack {sequence, hi, lo, units, {keys of its budgets}}
-- KEYS[7], [8]; [9], [10] ..  the budgets of this step in their period, and in the one before. Hashes: the members of
--                     struct budget_state
-- All keys share one hash tag, so one slot, and so do those of dead instances, whose names are KEYS[6]'s with another end.
--
-- ARGV: step, epoch, instance, token, then the step's own; then for each budget of the step five: name, seconds that its
-- figures are kept, configured hard and soft limit, most that is carried over.
--
-- Reply: a list, first a word: ok | no (refused) | gone (no such reservation: settled before, or expired) |
-- closed (no epoch) | epoch (another than the caller's) | fenced (the token is not the instance's newest) | old (a later
-- extension is known). Then what the step says, then for each budget eight: spent, waste, reserved, carried_in,
-- carried_out, topped_up, and the hard and soft limit in force.

local BASE = 1e9

local function amount(text)
  local sign, digits = string.match(text or '0', '^(-?)(%d+)$')
  if not digits or #digits > 24 then
    error('not an amount: ' .. tostring(text))
  end
  local hi, lo = tonumber(string.sub(digits, 1, -10)) or 0, tonumber(string.sub(digits, -9))
  if sign == '-' then
    hi, lo = -hi, -lo
    if lo < 0 then
      hi, lo = hi - 1, lo + BASE
    end
  end
  return {hi, lo}
end

local function text(a)
  local hi, lo, sign = a[1], a[2], ''
  if hi < 0 then
    sign = '-'
    hi, lo = -hi, -lo
    if lo < 0 then
      hi, lo = hi - 1, lo + BASE
    end
  end
  if hi == 0 then
    return sign .. string.format('%d', lo)
  end
  return sign .. string.format('%.0f%09d', hi, lo)
end

local function add(a, b)
  local hi, lo = a[1] + b[1], a[2] + b[2]
  if lo >= BASE then
    hi, lo = hi + 1, lo - BASE
  end
  return {hi, lo}
end

local function sub(a, b)
  local hi, lo = a[1] - b[1], a[2] - b[2]
  if lo < 0 then
    hi, lo = hi - 1, lo + BASE
  end
  return {hi, lo}
end

local function less(a, b)
  return a[1] < b[1] or (a[1] == b[1] and a[2] < b[2])
end

local function min(a, b)
  return less(b, a) and b or a
end

local ZERO = {0, 0}

local function now_ms()
  local t = redis.call('TIME')
  return tonumber(t[1]) * 1000 + math.floor(tonumber(t[2]) / 1000)
end

local function mul(a, n) -- n a whole number below 2^53
  local r = {0, 0}
  while n > 0 do
    if n % 2 == 1 then
      r = add(r, a)
    end
    a, n = add(a, a), math.floor(n / 2)
  end
  return r
end

-- ---- budgets -------------------------------------------------------------------------------------------------------

local UNLIMITED = amount('9223372036854775807')
local MONEY = {'spent', 'waste', 'reserved', 'carried_in', 'carried_out', 'topped_up'}

local function load(key)
  local v = redis.call('HMGET', key, unpack(MONEY))
  local b = {key = key, there = v[1], new = not v[4]} -- new: nothing was carried over yet
  for i, name in ipairs(MONEY) do
    b[name] = amount(v[i] or '0')
  end
  return b
end

local function save(b)
  local v = {}
  for _, name in ipairs(MONEY) do
    v[#v + 1] = name
    v[#v + 1] = text(b[name])
  end
  redis.call('HSET', b.key, unpack(v))
  if b.new and b.keep then
    redis.call('EXPIRE', b.key, b.keep)
  end
end

local function is_unlimited(a)
  return not less(a, UNLIMITED)
end

local function limit(b)
  local l = add(add(b.hard, b.carried_in), b.topped_up)
  return (is_unlimited(b.hard) or is_unlimited(l)) and UNLIMITED or l
end

local function unused(b)
  if is_unlimited(limit(b)) then
    return UNLIMITED
  end
  local l = sub(sub(sub(limit(b), b.spent), b.reserved), b.carried_out)
  return less(l, ZERO) and ZERO or l
end

-- budget_carry(): the period before gives what it did not use.
local function carry(b, before_key, carry_max)
  local before = load(before_key)
  if not before.there or not less(ZERO, carry_max) then
    return
  end
  before.hard = b.hard
  local over = unused(before)
  if is_unlimited(over) then
    return
  end
  b.carried_in = min(over, carry_max)
  before.carried_out = add(before.carried_out, b.carried_in)
  save(before)
end

-- The budgets of this step; their arguments begin at ARGV[at].
local function budgets(at)
  local list = {}
  for i = 7, #KEYS, 2 do
    local k = at + (i - 7) / 2 * 5
    local b = load(KEYS[i])
    b.name, b.keep, b.hard, b.soft = ARGV[k], ARGV[k + 1], amount(ARGV[k + 2]), amount(ARGV[k + 3])
    local set = redis.call('HGET', KEYS[5], b.name)
    if set then
      local hard, soft = string.match(set, '^(%S+) (%S+)$')
      b.hard = hard ~= '-1' and amount(hard) or b.hard
      b.soft = soft ~= '-1' and amount(soft) or b.soft
    end
    if b.new then
      carry(b, KEYS[i + 1], amount(ARGV[k + 4]))
      if less(ZERO, b.carried_in) then
        save(b)
      end
    end
    list[#list + 1] = b
  end
  return list
end

local function save_all(list)
  for _, b in ipairs(list) do
    save(b)
  end
end

local function reply(list, ...)
  local r = {...}
  for _, b in ipairs(list) do
    for _, name in ipairs(MONEY) do
      r[#r + 1] = text(b[name])
    end
    r[#r + 1] = text(b.hard)
    r[#r + 1] = text(b.soft)
  end
  return r
end

-- ---- reservations --------------------------------------------------------------------------------------------------

local function held(id)
  local packed = redis.call('HGET', KEYS[6], id)
  if packed then
    local v = cmsgpack.unpack(packed)
    return {sequence = v[1], money = {v[2], v[3]}, units = v[4], keys = v[5]}
  end
end

local function hold(id, h)
  redis.call('HSET', KEYS[6], id, cmsgpack.pack({h.sequence, h.money[1], h.money[2], h.units, h.keys}))
end

local function keys_of(list)
  local keys = {}
  for i, b in ipairs(list) do
    keys[i] = b.key
  end
  return keys
end

-- How many units of `unit` fit into `room`, at most `most`: doubled while it fits, then taken from the largest down.
local function units_within(room, unit, most)
  if not less(ZERO, unit) then
    return most
  end
  local n, k, powers = 0, 1, {}
  while k <= most and not less(room, unit) do
    powers[#powers + 1] = {k, unit}
    k, unit = k * 2, add(unit, unit)
  end
  for i = #powers, 1, -1 do
    local p = powers[i]
    if n + p[1] <= most and not less(room, p[2]) then
      n, room = n + p[1], sub(room, p[2])
    end
  end
  return n
end

-- budget_reserve(): as much as all of them have, or nothing. fixed, unit, units_min, units_want from ARGV[at]. The
-- reservation before, or a new one.
local function take(id, h, sequence, list, at)
  local fixed, unit = amount(ARGV[at]), amount(ARGV[at + 1])
  local least_units, units = tonumber(ARGV[at + 2]), tonumber(ARGV[at + 3])
  local least = add(fixed, mul(unit, least_units))
  local refused, may_wait = nil, true
  for i, b in ipairs(list) do
    local room = unused(b)
    if less(room, least) then
      refused = refused or i
      may_wait = may_wait and not less(sub(sub(limit(b), b.spent), b.carried_out), least)
    else
      units = math.min(units, units_within(sub(room, fixed), unit, units))
    end
  end
  if refused then
    return reply(list, 'no', tostring(refused), may_wait and '1' or '0')
  end
  local granted = add(fixed, mul(unit, units))
  for _, b in ipairs(list) do
    b.reserved = add(b.reserved, granted)
  end
  save_all(list)
  hold(id, {sequence = sequence, money = add(h and h.money or ZERO, granted), units = units, keys = keys_of(list)})
  return reply(list, 'ok', string.format('%.0f', units), text(granted))
end

-- Ends a reservation of so much money: each budget gives it back and books what was spent.
local function give_back(list, money, spent)
  for _, b in ipairs(list) do
    b.reserved = sub(b.reserved, money)
    b.spent = add(b.spent, spent)
  end
end

-- Of an instance that is dead: all that its reservations were granted may have been used, so it counts as spent. At most
-- `most` reservations in one call. Returns how many, and whether that was all.
local function bury(instance, most)
  local key = string.sub(KEYS[6], 1, -1 - #ARGV[3]) .. instance
  local all_of = redis.call('HGETALL', key)
  local n = math.min(#all_of / 2, most)
  for i = 1, n do
    local v = cmsgpack.unpack(all_of[2 * i])
    local money = {v[2], v[3]}
    for _, budget in ipairs(v[5]) do
      local b = load(budget)
      if b.there then
        give_back({b}, money, money)
        b.waste = add(b.waste, money)
        save(b)
      end
    end
    redis.call('HDEL', key, all_of[2 * i - 1])
  end
  local done = n == #all_of / 2
  if done then
    redis.call('HDEL', KEYS[3], instance)
  end
  return n, done
end

-- ---- steps ---------------------------------------------------------------------------------------------------------

local step = {}

-- A repetition, because the reply was lost, has no effect and says the same.
local function again(h, list)
  return reply(list, 'ok', string.format('%.0f', h.units), '')
end

-- reservation, fixed, unit, units_min, units_want.  ok: units, amount
function step.reserve()
  local h, list = held(ARGV[5]), budgets(10)
  if h then
    return again(h, list)
  end
  return take(ARGV[5], nil, 1, list, 6)
end

-- reservation, sequence (each extension a larger one, from 2), fixed, unit, units_min, units_want
function step.extend()
  local h, sequence, list = held(ARGV[5]), tonumber(ARGV[6]), budgets(11)
  if not h then
    return reply(list, 'gone', '0', '0')
  end
  if h.sequence >= sequence then
    return h.sequence == sequence and again(h, list) or reply(list, 'old', '0', '0')
  end
  return take(ARGV[5], h, sequence, list, 7)
end

-- reservation, spent; nothing spent: it is released. The budgets are those that it was taken from.
function step.settle()
  local h = held(ARGV[5])
  if not h then
    return {'gone'}
  end
  for _, key in ipairs(h.keys) do
    local b = load(key)
    if b.there then
      give_back({b}, h.money, amount(ARGV[6]))
      save(b)
    end
  end
  redis.call('HDEL', KEYS[6], ARGV[5])
  return {'ok', text(h.money)}
end

-- A lease: money that this instance may spend from one budget while Redis is lost. reservation, sequence, what of it was
-- used since, what there shall be of it; as much of that as the budget has.  ok: what there is, ''
function step.lease()
  local h, sequence, list = held(ARGV[5]), tonumber(ARGV[6]), budgets(9)
  local b = list[1]
  if h and h.sequence == sequence then
    return reply(list, 'ok', text(h.money), '')
  end
  local money, wanted = h and h.money or ZERO, amount(ARGV[8])
  local used = min(amount(ARGV[7]), money)
  give_back(list, used, used)
  money = sub(money, used)
  local more = sub(wanted, money) -- below 0: the rest goes back
  if less(ZERO, more) then
    more = min(more, unused(b))
  end
  b.reserved, money = add(b.reserved, more), add(money, more)
  save(b)
  hold(ARGV[5], {sequence = sequence, money = money, units = 0, keys = {b.key}})
  return reply(list, 'ok', text(money), '')
end

-- operation, amount, seconds for which the operation is remembered
function step.topup()
  local list = budgets(8)
  if redis.call('SET', KEYS[2] .. ':operation:' .. ARGV[5], '1', 'NX', 'EX', ARGV[7]) then
    for _, b in ipairs(list) do
      b.topped_up = add(b.topped_up, amount(ARGV[6]))
    end
    save_all(list)
  end
  return reply(list, 'ok', '0', '')
end

-- hard, soft; -1: the configured one, -2: as it is.  ok: what was set, as told
function step.set()
  local hard, soft = ARGV[5], ARGV[6]
  for _, b in ipairs(budgets(7)) do
    local was_hard, was_soft = string.match(redis.call('HGET', KEYS[5], b.name) or '-1 -1', '^(%S+) (%S+)$')
    hard, soft = hard == '-2' and was_hard or hard, soft == '-2' and was_soft or soft
    if hard == '-1' and soft == '-1' then
      redis.call('HDEL', KEYS[5], b.name)
    else
      redis.call('HSET', KEYS[5], b.name, hard .. ' ' .. soft)
    end
  end
  return reply(budgets(7), 'ok', hard, soft)
end

-- Nothing is changed; the figures are what is asked for.
function step.read()
  return reply(budgets(5), 'ok', '0', '')
end

-- I am alive. milliseconds after which who is silent is dead, most reservations to bury. Where nobody was heard of for a
-- while it was Redis that was away, and everybody gets that time anew.
-- ok: reservations of the dead that were counted as spent, whether there are more
function step.beat()
  local now, dead_ms = now_ms(), tonumber(ARGV[5])
  local last = tonumber(redis.call('HGET', KEYS[2], 'beat_ms') or '0')
  redis.call('HSET', KEYS[3], ARGV[3], cmsgpack.pack({tonumber(ARGV[4]), now}))
  redis.call('HSET', KEYS[2], 'beat_ms', string.format('%.0f', now))
  redis.call('EXPIRE', KEYS[6], 3456000)
  if now - last > dead_ms / 2 then
    redis.call('HSET', KEYS[2], 'grace_ms', string.format('%.0f', now + dead_ms))
  end
  local buried, more, most = 0, 0, tonumber(ARGV[6])
  if now < tonumber(redis.call('HGET', KEYS[2], 'grace_ms') or '0') then
    return {'ok', '0', '0'}
  end
  local instances = redis.call('HGETALL', KEYS[3])
  for i = 1, #instances, 2 do
    if now - cmsgpack.unpack(instances[i + 1])[2] > dead_ms then
      if buried >= most then
        more = 1
        break
      end
      local n, done = bury(instances[i], most - buried)
      buried, more = buried + n, done and more or 1
    end
  end
  return {'ok', tostring(buried), tostring(more)}
end

-- The instance ends; what it still holds counts as spent at once.
function step.bye()
  local n, done = bury(ARGV[3], 1000)
  return {'ok', tostring(n), done and '0' or '1'}
end

-- ---- steps that need no token ----------------------------------------------------------------------------------------

-- A new connection of an instance; its older ones are fenced off, what of them is still on its way will be refused.
-- ok: token, epoch
local function hello(epoch)
  local token = redis.call('HINCRBY', KEYS[2], 'tokens', 1)
  redis.call('HSET', KEYS[3], ARGV[3], cmsgpack.pack({token, now_ms()}))
  return {'ok', string.format('%.0f', token), epoch}
end

-- Budgets without their epoch are not there. The name of the next: the first proposal (ARGV[2]) is taken.
-- closed: its name, ledgers that have told their part
local function closed()
  redis.call('HSETNX', KEYS[4], 'epoch', ARGV[2])
  return {'closed', redis.call('HGET', KEYS[4], 'epoch'), tostring(redis.call('HLEN', KEYS[4]) - 1)}
end

-- One ledger's part, told in any number of steps; each budget of it is counted once. Step "part": the next epoch as
-- ARGV[2]; name of the ledger; then for each key from KEYS[7] on four: seconds to keep it, spent, waste, topped up. What is
-- carried over follows from the figures of all ledgers, when the budget is first used. Then, by name, limits that were set
-- at run time: three each, the name, hard and soft. Step "open": name of the ledger, number of ledgers that there are: all
-- its parts are told. The last one opens the budgets.
local function part()
  local at = 6
  for i = 7, #KEYS do
    if redis.call('HSETNX', KEYS[4] .. ':parts', ARGV[5] .. ' ' .. KEYS[i], '1') == 1 then
      for k, name in ipairs({'spent', 'waste', 'topped_up'}) do
        local sum = add(amount(redis.call('HGET', KEYS[i], name) or '0'), amount(ARGV[at + k]))
        redis.call('HSET', KEYS[i], name, text(sum))
      end
      redis.call('EXPIRE', KEYS[i], ARGV[at])
    end
    at = at + 4
  end
  for k = at, #ARGV, 3 do
    redis.call('HSETNX', KEYS[5], ARGV[k], ARGV[k + 1] .. ' ' .. ARGV[k + 2])
  end
  return {'ok'}
end

local function open()
  redis.call('HSET', KEYS[4], 'ledger ' .. ARGV[5], '1')
  local n = redis.call('HLEN', KEYS[4]) - 1
  if n < tonumber(ARGV[6]) then
    return {'closed', ARGV[2], tostring(n)}
  end
  redis.call('SET', KEYS[1], ARGV[2])
  redis.call('DEL', KEYS[4], KEYS[4] .. ':parts')
  return {'ok', tostring(n)}
end

-- ---- the call --------------------------------------------------------------------------------------------------------

local epoch, name = redis.call('GET', KEYS[1]), ARGV[1]
if name == 'hello' then
  return epoch and hello(epoch) or closed()
end
if name == 'part' or name == 'open' then
  if epoch or redis.call('HGET', KEYS[4], 'epoch') ~= ARGV[2] then
    return {'epoch', epoch or ''}
  end
  return name == 'part' and part() or open()
end
if not epoch then
  return {'closed', '', '0'} -- the caller's epoch is one that was: no name for the next
end
if epoch ~= ARGV[2] then
  return {'epoch', epoch}
end
local me = redis.call('HGET', KEYS[3], ARGV[3])
if not me or cmsgpack.unpack(me)[1] ~= tonumber(ARGV[4]) then
  return {'fenced'}
end
return step[name]()
