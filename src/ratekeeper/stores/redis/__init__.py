"""Buckets on Redis or Valkey, for a fleet. The client library is an extra: `pip install 'ratekeeper[redis]'`."""

from ratekeeper.stores.redis.async_store import AsyncRedisStore
from ratekeeper.stores.redis.store import RedisStats, RedisStore

__all__ = ["AsyncRedisStore", "RedisStats", "RedisStore"]
