"""FastAPI, limited in two lines: uvicorn fastapi_app:app"""

from fastapi import Depends, FastAPI

from ratekeeper import Policy
from ratekeeper.frameworks.fastapi import RateLimitMiddleware, rate_limit

POLICY = Policy.parse("""
[attributes]
api_key = "header:x-api-key"

[[rules]]
name = "each address"
key = ["client"]
limit = "100/minute burst 20"

[[rules]]
name = "each key, each endpoint"
key = ["api_key", "endpoint"]
limit = "10/second"
""")

app = FastAPI()
app.add_middleware(RateLimitMiddleware, policy=POLICY)  # or policy="policy.toml"


@app.get("/items/{item}")
async def show(item: int) -> dict[str, int]:
    return {"item": item}


@app.get("/search")
@rate_limit("5/second", "100/hour")  # no `request` argument needed; all are charged or none
async def search(text: str = "") -> list[str]:
    return [text]


@app.post("/reports", dependencies=[Depends(rate_limit("2/minute", key="api_key"))])  # or as a dependency
def report() -> str:
    return "a report"
