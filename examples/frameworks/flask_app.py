"""Flask, limited in two lines: gunicorn flask_app:app"""

from flask import Flask, request

from ratekeeper import Policy
from ratekeeper.frameworks.flask import RateLimits, rate_limit

app = Flask(__name__)
RateLimits(app, Policy.parse('[[rules]]\nname = "each address"\nkey = ["client"]\nlimit = "100/minute burst 20"'))


@app.get("/")
def index():
    return "hello"


@app.get("/reports")
@rate_limit("2/minute", key=lambda request: request.headers.get("x-api-key"), missing="reject")
def reports():
    return f"a report for {request.headers['x-api-key']}"
