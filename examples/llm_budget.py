"""Calls whose cost is known only afterwards: reserve an estimate, then give back what was not used.

python examples/llm_budget.py
"""

from ratekeeper import Limiter, RateLimitExceeded, TokenBucket

# 90,000 model tokens a minute for each tenant, and no more than 20,000 at once.
budget = Limiter(TokenBucket(capacity=20_000, refill_rate="90000/minute"), name="model tokens")


def complete(tenant: str, prompt: str, most_tokens: int) -> str:
    """Answer a prompt within the tenant's budget. Raises RateLimitExceeded before any model is called."""
    reserved = budget.acquire(tenant, cost=len(prompt) + most_tokens, timeout=0)
    answer = prompt.upper()  # the model's call goes here
    budget.refund(reserved, cost=most_tokens - len(answer))
    return answer


if __name__ == "__main__":
    for number in range(1, 5):
        try:
            print(
                f"{number}: {complete('acme', 'hello there', most_tokens=9_000)}", budget.peek("acme").remaining, "left"
            )
        except RateLimitExceeded as error:
            print(f"{number}: {error}")
    try:
        complete("acme", "too long", most_tokens=90_000)
    except RateLimitExceeded as error:
        print(f"never: {error}")
