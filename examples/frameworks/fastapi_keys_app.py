"""FastAPI: each user by the key of a dependency, and a health check without limits."""

from typing import Annotated

from fastapi import Depends, FastAPI, HTTPException
from fastapi.security import APIKeyHeader

from ratekeeper.frameworks.fastapi import RateLimitMiddleware, exempt, rate_limit

USERS = {"k-1": "alice", "k-2": "bob"}


def current_user_id(key: Annotated[str, Depends(APIKeyHeader(name="x-api-key"))]) -> str:
    if key not in USERS:
        raise HTTPException(401)
    return USERS[key]


CURRENT_USER = Depends(current_user_id)  # one dependency, for keys and for parameters
UserId = Annotated[str, CURRENT_USER]

app = FastAPI()
app.add_middleware(RateLimitMiddleware)


@app.get("/search")
@rate_limit("5/second", key=CURRENT_USER)  # or Depends(rate_limit(..., key=CURRENT_USER))
async def search(user: UserId, text: str = "") -> str:
    return f"{text} for {user}"


@app.get("/healthz")
@exempt
async def healthz() -> str:
    return "well"
