"""Owns the shim that holds a script to its KEYS: text put before it that raises on any key that is not among them.

Some servers refuse such a key, where others look away; where the refusal comes after a write, Lua does not roll back.
"""

from __future__ import annotations

import hashlib
import sys
from typing import TYPE_CHECKING, Final

from upsertq.contract.protocol import Script

if TYPE_CHECKING:
    import pytest

SHIM: Final = """
local redis = (function(server)
  local declared = {}
  for _, key in ipairs(KEYS) do declared[key] = true end
  local of_one_key = {}
  local names = 'TYPE GET SET PEXPIRE HGET HMGET HGETALL HSET HSETNX HDEL HLEN HSCAN XADD XDEL XLEN XRANGE SADD SREM '
    .. 'SCARD'
  for name in string.gmatch(names, '%S+') do of_one_key[name] = true end
  local of_keys = {EXISTS = true, DEL = true, UNLINK = true}
  local function checked(call)
    return function(name, ...)
      local arguments = {...}
      local last = of_one_key[name] and 1 or of_keys[name] and #arguments or 0
      if last == 0 and name ~= 'TIME' then error('the shim does not know ' .. name) end
      for i = 1, last do
        if not declared[arguments[i]] then error('UNDECLARED ' .. name .. ' ' .. tostring(arguments[i])) end
      end
      return call(name, ...)
    end
  end
  return {call = checked(server.call), pcall = checked(server.pcall), error_reply = server.error_reply}
end)(redis)
"""


def held(script: Script) -> Script:
    """The script behind the shim."""
    if script.text.startswith(SHIM):
        return script
    text = SHIM + script.text
    return Script(script.name, text, hashlib.sha1(text.encode()).hexdigest())  # noqa: S324 - as servers name scripts


_scripts: Final[dict[str, list[str]]] = {}
"""By loaded module, the names under which it holds scripts: to look through all modules takes a while."""


def hold_all(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Put the shim before every script that a loaded module holds; returns the names of these scripts."""
    for module in sys.modules.keys() - _scripts.keys():
        kept = list(getattr(sys.modules[module], "__dict__", {}).items())
        _scripts[module] = [name for name, value in kept if isinstance(value, Script)]
    names = set()
    for module, kept_as in _scripts.items():
        for name in kept_as:
            script: Script = getattr(sys.modules[module], name)
            monkeypatch.setattr(sys.modules[module], name, held(script))
            names.add(script.name)
    return names
