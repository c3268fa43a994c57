"""Questions about Tradewind, in many phrasings, with correct answers only."""

import random
import zlib
from dataclasses import dataclass

from words import mistyped, pick, rough

Turn = tuple[str, str]


@dataclass(frozen=True)
class Topic:
    """What may be asked, a short answer, longer answers, and the words that a right answer must contain (any of them)."""

    questions: list[str]
    short: str
    long: list[str]
    keywords: list[str]


def topic(questions: str, short: str, long: str, keywords: str) -> Topic:
    """A topic from text: questions and long answers are separated by '|' or line ends."""
    return Topic(_split(questions), short, _split(long), keywords.split("|"))


def _split(text: str) -> list[str]:
    return [part.strip() for line in text.strip().split("\n") for part in line.split("|") if part.strip()]


HOW = [
    "How do I {x}?", "How can I {x}?", "How to {x}?", "What do I do to {x}?", "I want to {x}.", "I would like to {x}. How?", "Show me how to {x}.", "What is the command to {x}?",
    "Tell me how to {x}.", "What is the way to {x}?", "Is it possible to {x}?", "Explain how to {x}.", "Can you tell me how to {x}?", "What must I do to {x}?",
    "Which command do I use to {x}?", "Can I {x}?", "I need to {x}.", "How does one {x}?", "What is the best way to {x}?", "Help me to {x}.",
]  # fmt: skip
ACTIONS = {
    "start": """run Tradewind|start Tradewind|start the server|start it|launch the server|launch Tradewind|serve the demo model|get Tradewind running|try Tradewind
    use Tradewind|start serving|boot the server|get started with Tradewind|start the engine""",
    "own_model": """serve my own model|use another model|load a different model|run a model from Hugging Face|serve a bigger model|load my model|change the model
    use a model on my disk|serve a different model|run my own model|use a Hugging Face model""",
    "stop": """stop Tradewind|stop the server|stop it|shut down the server|shut Tradewind down|end the server|quit Tradewind|turn it off|exit Tradewind|kill the server|close the server
    shut it down|turn off the server|terminate the server|stop the engine""",
    "change_port": "change the port|use another port|serve on port 9000|choose the port|use a different port|run it on another port|set the port",
    "api": "talk to the server|use the API|send a request|call the API|send a chat message to the server|connect my program|send a chat request|access the API",
    "sdk": "use the OpenAI SDK|use the OpenAI client|call it with the OpenAI library|connect the OpenAI SDK|use it with the openai package|set the base URL",
    "curl": "use curl|send a request with curl|test the server|call the server with curl|check that the server works",
    "chat": "chat in the terminal|chat with a model|talk to the model in the terminal|chat without a browser|chat on the command line",
    "generate": "generate text on the command line|complete a text in the terminal|generate text in the terminal|complete a prompt on the command line",
    "doctor": "check my machine|see which kernels are used|see what my machine can do|look at my hardware|find out what memory allows|inspect the machine",
    "bench": "measure the speed|benchmark it|benchmark Tradewind|test the performance|see how fast it is|measure the throughput|run a benchmark",
    "offline": "use it from Python|use Tradewind in Python|run it without a server|use the LLM class|generate text in a Python script|use it as a library|call it from my Python code",
    "needs": "install Tradewind|install it|set it up|set up Tradewind|install the package|get Tradewind on my machine",
    "health": "check that the server is ready|check the health|see if the server is up|know if the server is ready|check the state of the server",
    "metrics": "monitor the server|see the metrics|watch the server|get metrics|use Prometheus with it|monitor Tradewind",
    "stream": "stream the answer|stream tokens|get tokens as they come|stream the output|turn on streaming|get a streaming answer",
    "key": "set an API key|protect the server|secure the server|use an API key|require a key|keep others out",
    "sampling": "set the temperature|make answers less random|get the same answer twice|set a seed|change the sampling|make the output deterministic",
    "docs": "read the documentation|learn more about Tradewind|find the manual|find the guides|read more about it|see the docs",
}  # fmt: skip


def asked_how(name: str) -> list[str]:
    """How-to questions for the actions of a topic."""
    return [frame.replace("{x}", action) for action in _split(ACTIONS.get(name, "")) for frame in HOW]


def concept(name: str, short: str, long: str, keywords: str, extra: str = "") -> Topic:
    """A technical word: the usual ways to ask for its meaning, and some of its own."""
    bare = name.removeprefix("the ").removeprefix("an ").removeprefix("a ")
    asks = [f"What is {name}?", f"What does {name} mean?", f"Explain {name}.", f"Can you explain {name}?", f"Tell me about {name}.",
            f"What is {name} good for?", f"How does {name} work?", f"Describe {name}.", f"{name}?", f"What's {name}?",
            f"I do not understand {name}.", f"Please explain {name} to me.", f"What is meant by {name}?", f"Define {name}.",
            f"Why is {name} useful?", f"What about {name}?", f"And {name}?", f"Tell me what {name} is.", f"Does Tradewind have {bare}?",
            f"Does it support {bare}?", f"Does Tradewind use {bare}?", f"Why do I need {name}?", f"Could you explain {name}?", f"Explain to me what {name} is.",
            f"What exactly is {name}?", f"I want to know what {name} is.", f"Tell me something about {name}.", f"Can you describe {name}?",
            f"What is the idea of {name}?", f"What is {bare}?", f"what is {bare} good for", f"Why does Tradewind have {bare}?", f"Give me a definition of {name}.", f"In simple words, what is {name}?", f"What is {name} in Tradewind?"]  # fmt: skip
    return Topic(asks + _split(extra), short, _split(long), keywords.split("|"))


TOPICS: dict[str, Topic] = {
    "what": topic(
        """What is Tradewind?|Tell me about Tradewind.|Explain Tradewind.|Can you explain what Tradewind is?
        What does Tradewind do?|Describe Tradewind.|Tradewind?|What's Tradewind?|What kind of program is Tradewind?|Who or what is Tradewind?
        I have never heard of Tradewind. What is it?|Give me an introduction to Tradewind.|What do you know about Tradewind?
        What is this Tradewind thing?|Please describe Tradewind.|What is the purpose of Tradewind?|So what is Tradewind?
        What is Tradewind for?|What can Tradewind do?|What can I do with Tradewind?|Why would I use Tradewind?|What is this software?
        What exactly is Tradewind?|Tell me what Tradewind is.|Tell me something about Tradewind.|In one or two sentences, what is Tradewind?|Give me a summary of Tradewind.
        Explain to me what Tradewind is.|Could you explain Tradewind?|What sort of software is Tradewind?|I'm new here. What is Tradewind?|What is Tradewind about?|What does the Tradewind project do?
        Who is Tradewind?|Introduce Tradewind.|In simple words, what is Tradewind?|Why Tradewind?|What is the Tradewind engine?|What is the Tradewind project?|Define Tradewind.|Is Tradewind an inference engine?
        Is Tradewind a server?|What is Tradewind good for?|Please tell me what Tradewind is.|I want to know more about Tradewind.|Explain Tradewind to me.|Explain Tradewind in one sentence.|What is Tradewind used for?
        What problem does Tradewind solve?|Who uses Tradewind?|What is special about Tradewind?|Give me an overview of Tradewind.|What does Tradewind serve?|How would you describe Tradewind?|Do you know Tradewind?|Have you heard of Tradewind?|Is Tradewind a program?|Summarize Tradewind.""",
        "Tradewind is an inference engine for language models.",
        """Tradewind is an inference engine for large language models. It loads a model and answers requests over an HTTP API, many at the same time.
        Tradewind is a program that serves language models. It reads a model's files, runs it on your machine, and answers over an OpenAI-compatible API.
        Tradewind is an LLM inference engine. It runs language models on CPUs and NVIDIA GPUs and serves them over an OpenAI-compatible API.
        Tradewind serves language models: start it with a model, and programs can talk to it through an OpenAI-compatible API.""",
        "inference engine|language model"),
    "why_name": topic(
        """Why is it called Tradewind?|Where does the name Tradewind come from?|What does the name Tradewind mean?|What is a trade wind?""",
        "A trade wind is a steady wind that carried ships across the ocean.",
        """A trade wind is a steady wind that carried ships. Tradewind is also about a trade: throughput against latency.
        The name plays on two things: the steady wind that carried ships, and the trade between throughput and latency.""", "wind|trade"),
    "start": topic(
        """How do I start Tradewind?|How do I start the server?|How can I start it?|How do you start Tradewind?|How to run Tradewind?
        How do I run Tradewind?|Start Tradewind|What command starts Tradewind?|Which command starts the server?|How to start the server?
        How do I launch Tradewind?|What do I type to start Tradewind?|How can I serve a model?|How do I serve a model?|How do I get started?
        Getting started with Tradewind|What is the quickest way to start?|How do I begin with Tradewind?|How can I try Tradewind?|How do I use Tradewind?
        What is the first step with Tradewind?|Show me how to start Tradewind.|Give me the command to start Tradewind.|What does make serve do?
        I want to run Tradewind. What do I do?|How do I start a server with the demo model?|How do I serve the demo model?|How do I boot the server?""",
        "Type make serve.",
        """Type `make serve` in the repository. It installs what is needed and starts the server with the demo model on port 8000.
        Run `make serve`. It makes a virtual environment, installs Tradewind and serves the built-in demo model on port 8000. With Tradewind installed, use `tradewind serve MODEL`.
        Use `make serve` for the built-in demo model, or `tradewind serve MODEL` for a model of your own.""", "make serve|tradewind serve"),
    "own_model": topic(
        """How do I serve my own model?|How can I load another model?|How do I use a different model?|How do I run another model?
        How do I start Tradewind with my model?|How do I serve a model from Hugging Face?|Can I use a model from Hugging Face?|How do I load a model?
        Can I use my own model?|Can Tradewind run other models?|How do I change the model?|How do I serve a bigger model?""",
        "Use tradewind serve MODEL.",
        """Use `tradewind serve MODEL`, where MODEL is a local directory or a Hugging Face repository id.
        Run `tradewind serve MODEL`. MODEL can be a directory on your disk or the id of a Hugging Face repository.""", "tradewind serve"),
    "stop": topic(
        """How do I stop Tradewind?|How do I stop the server?|How can I stop it?|How do you stop Tradewind?|How do I shut Tradewind down?
        How do I quit the server?|How do I end Tradewind?|How to stop the server?|What happens when I stop Tradewind?|How do I turn it off?
        How do I exit?|How do I kill the server?|Stop the server|What is the right way to stop Tradewind?|Can I stop the server safely?
        How do I close Tradewind?|What happens to running requests when I stop the server?|What does SIGTERM do?""",
        "Press Ctrl-C.",
        """Press Ctrl-C in its terminal, or send it SIGTERM. Running streams finish, new requests are refused, and then it ends.
        Press Ctrl-C, or send the process a SIGTERM. Tradewind finishes the answers that are running and then stops.""", "Ctrl-C|SIGTERM"),
    "port": topic(
        """Which port does Tradewind use?|What port does it use?|What is the port?|Which port is the server on?|On which port does Tradewind listen?
        What is the default port?|Where does the server listen?|What address does the server have?|port?|Where can I reach the server?
        What is the URL of the server?|On what port is Tradewind?|Tell me the port.|How do I connect to the server?""",
        "Port 8000.",
        """Tradewind listens on port 8000 unless you choose another one with `--port`.
        By default the server is at http://127.0.0.1:8000. You can choose another port with `--port`.
        The default port is 8000.""", "8000"),
    "change_port": topic(
        """How do I change the port?|Can I use another port?|How do I use port 9000?|Port 8000 is in use. What can I do?|How can I choose the port?
        How do I serve on a different port?|Which option sets the port?|The port is already in use.|How do I listen on another port?""",
        "Use the option --port.",
        """Use the option `--port`, for example `tradewind serve --port 9000`.
        Start it with `--port` and a number, for example `tradewind serve --port 9000`.""", "--port"),
    "api": topic(
        """Which API does Tradewind have?|What API does it use?|Which API does Tradewind offer?|What API does the server speak?|Is Tradewind compatible with OpenAI?
        Is the API OpenAI-compatible?|Does it work with the OpenAI SDK?|What is the API?|How do I talk to the server?
        How can my program use Tradewind?|Which endpoints are there?|What endpoints does Tradewind have?|How do I call the API?|Does Tradewind have an API?
        Which protocol does Tradewind use?|Can I use the OpenAI Python library with Tradewind?|What kind of API is it?|Tell me about the API.
        How do I use the API?|Is there an HTTP API?|What is the endpoint for chat?|Which endpoint is for chat?|Where do I send chat requests?""",
        "An OpenAI-compatible HTTP API.",
        """Tradewind has an OpenAI-compatible HTTP API. Chats go to `/v1/chat/completions` and plain text to `/v1/completions`.
        The API is OpenAI-compatible: use the OpenAI SDK with the base URL http://127.0.0.1:8000/v1, or send requests to `/v1/chat/completions`.
        It speaks the OpenAI API: `/v1/chat/completions`, `/v1/completions` and `/v1/models`.""", "OpenAI|/v1/chat/completions"),
    "sdk": topic(
        """How do I use the OpenAI SDK with Tradewind?|What base URL do I need?|How do I set the base URL?|Which base URL does the OpenAI client need?
        How do I connect the OpenAI client?|What is the base url?|How do I call Tradewind from Python?""",
        "Set the base URL to http://127.0.0.1:8000/v1.",
        """Make the OpenAI client with the base URL http://127.0.0.1:8000/v1 and then use it as always.
        Set the base URL of the OpenAI client to http://127.0.0.1:8000/v1.""", "8000/v1"),
    "curl": topic(
        """How do I use curl?|Show me a curl command.|Can I use curl?|Give me an example with curl.|How do I test the server?|How can I check that the server works?""",
        "Send a POST request to /v1/chat/completions.",
        """Send a POST request to http://127.0.0.1:8000/v1/chat/completions with a JSON body that has a list of messages. `make serve` prints a ready curl line.
        When it is ready, the server prints a curl line that you can copy. It sends a chat to `/v1/chat/completions`.""", "/v1/chat/completions"),
    "commands": topic(
        """Which commands does Tradewind have?|What commands are there?|List the commands of Tradewind.|What are the commands?|Which commands can I use?
        Show me the commands.|Commands of Tradewind?|What can the tradewind command do?|Help with the command line|Which subcommands exist?""",
        "serve, generate, chat, doctor and bench.",
        """The commands are `tradewind serve`, `tradewind generate`, `tradewind chat`, `tradewind doctor` and `tradewind bench`.
        There are five: `tradewind serve` starts the server, `tradewind generate` completes a text, `tradewind chat` is a chat in the terminal, `tradewind doctor` looks at the machine, and `tradewind bench` measures.""",
        "generate|doctor"),
    "chat": topic(
        """What is tradewind chat?|How do I chat in the terminal?|Can I chat without a server?|What does tradewind chat do?|How do I start a chat?
        Is there a terminal chat?|How can I chat with a model?|How can I talk to the model in my terminal?""",
        "It is a chat in the terminal.",
        """`tradewind chat` starts a chat in the terminal. It streams the answers and keeps the history. Type /help for help.
        Run `tradewind chat` to talk to a model in your terminal.""", "tradewind chat|terminal"),
    "generate": topic(
        """What is tradewind generate?|What does tradewind generate do?|How do I complete a text?|How do I generate text without a server?
        Can I generate text from the command line?|How do I generate text in the terminal?""",
        "It continues a text that you give.",
        """`tradewind generate` continues a text from the command line, without a server.
        Use `tradewind generate` with a prompt: it prints how the model continues it.""", "tradewind generate"),
    "doctor": topic(
        """What is tradewind doctor?|What does tradewind doctor do?|How do I check my machine?|Which command looks at my machine?|What is the doctor for?
        How do I see what my machine can do?|How do I find out which kernels are used?|What is doctor?""",
        "It looks at your machine.",
        """`tradewind doctor` looks at your machine: the processor or GPU, the memory, and which implementation each operation would use and why.
        Run `tradewind doctor`. It shows the machine, what its memory allows, and which kernels would run.""", "doctor|machine"),
    "bench": topic(
        """What is tradewind bench?|How do I measure the speed?|How can I benchmark Tradewind?|How fast is Tradewind?|What does tradewind bench do?
        Is there a benchmark?|How do I test the performance?|Is Tradewind fast?|How many tokens per second does it make?""",
        "Use tradewind bench.",
        """Use `tradewind bench`. It measures serving, offline work, the start-up and the host's share: bench serve, offline, startup and host.
        I cannot tell you a number, because it depends on the machine. `tradewind bench` measures it.""", "tradewind bench"),
    "offline": topic(
        """How do I use Tradewind in Python?|Can I use Tradewind without a server?|Is there a Python API?|How do I use it from Python?|Is there an offline mode?
        How do I use the LLM class?|How do I import Tradewind?|Show me a Python example.|Can I use Tradewind as a library?|How do I generate text in Python?""",
        "Use the LLM class.",
        """Use `from tradewind import LLM, SamplingParams`, then `LLM("demo").generate(prompts, params)`. No server is needed.
        Import LLM: `from tradewind import LLM`. Then `LLM("demo").chat(messages)` answers without a server.""", "LLM"),
    "models": topic(
        """Which models does Tradewind support?|What models can it run?|Which models can I use?|What model families are supported?|Does it support Llama?
        Does Tradewind support Qwen?|Can it run Mistral?|Which architectures does Tradewind support?|What kinds of models work?|Does Tradewind run Llama models?
        List the supported models.|Which language models can I serve?|Can it run Qwen3?|What models are supported?""",
        "Llama, Mistral, Qwen2 and Qwen3.",
        """Tradewind supports the Llama, Mistral, Qwen2 and Qwen3 families. Other families are refused with a clear message.
        It runs models of the families Llama, Mistral, Qwen2 and Qwen3, in float32, bfloat16 or float16.""", "Llama"),
    "hardware": topic(
        """Does Tradewind need a GPU?|Do I need a GPU?|Can it run on a CPU?|Which hardware does it need?|What hardware does Tradewind run on?|Does it run on my laptop?
        Can I run it on a laptop?|Does Tradewind support NVIDIA GPUs?|Does it work without a graphics card?|On which machines does it run?
        What machine do I need?|Will it run on a CPU?|GPU or CPU?|Can Tradewind use a GPU?""",
        "No, a CPU is enough.",
        """No GPU is needed: Tradewind runs on a CPU, for instance on a laptop. It can also use NVIDIA GPUs.
        Tradewind runs on CPUs and on NVIDIA GPUs. For small models a CPU is enough.""", "CPU"),
    "needs": topic(
        """What do I need to install Tradewind?|Which Python version do I need?|What are the requirements?|How do I install Tradewind?|How can I install it?
        What does Tradewind need?|Installation?|Can I install it with pip?|Which Python does Tradewind need?|Help me install Tradewind.|Install Tradewind""",
        "Python 3.11 or newer, g++ and git.",
        """You need Python 3.11 or newer, g++ and git. Then `make serve` installs the rest, or `pip install .` gives you the `tradewind` command.
        Tradewind needs Python 3.11 or newer. Type `pip install .` in the repository, or just `make serve`.""", "Python|pip|make serve"),
    "licence": topic(
        """What is the license of Tradewind?|Which licence does it have?|Is Tradewind free?|Is Tradewind open source?|Can I use Tradewind at work?|What license is it under?
        Does Tradewind cost money?|How much does Tradewind cost?|Under which licence is it?""",
        "Apache 2.0.",
        """Tradewind is free and open: it has the Apache 2.0 licence.
        It is open source under the Apache 2.0 licence.""", "Apache"),
    "language": topic(
        """In which language is Tradewind written?|What language is Tradewind written in?|Is Tradewind written in Python?|What is Tradewind made of?
        Which programming language does Tradewind use?""",
        "Python.",
        """Tradewind is written in Python and uses PyTorch. Some kernels are in C++ and Triton.
        It is written in Python, with PyTorch underneath.""", "Python"),
    "demo": topic(
        """What is the demo model?|Tell me about the demo model.|What is the built-in model?|Which model is built in?|How big is the demo model?
        What can the demo model do?|How was the demo model trained?|Why is the demo model so small?|Is there a built-in model?""",
        "A very small chat model inside Tradewind.",
        """The demo model is a very small chat model inside Tradewind, with a few million parameters. It was trained on generated text and shows that everything works.
        It is a tiny model that comes with Tradewind, so that you can try the server at once. It knows little.""", "small|tiny"),
    "train": topic(
        """Can Tradewind train models?|Does Tradewind do training?|Can I fine-tune a model with Tradewind?|Does it train?|Is Tradewind for training?""",
        "No, it only runs them.",
        """No. Tradewind runs models that are already trained. It does not train them.
        No, training is out of its scope. Tradewind is for inference.""", "No"),
    "images": topic(
        """Can Tradewind make images?|Does Tradewind generate pictures?|Can it do speech?|Does it support image generation?|Can Tradewind draw?""",
        "No, only text.",
        """No. Tradewind serves language models, which work with text.
        No, image and speech generation are out of its scope.""", "No"),
    "health": topic(
        """How do I know that the server is ready?|Is there a health check?|How do I check the health of the server?|What is /health?|What is /ready?
        Which endpoint tells me if the server is up?|How can I see whether Tradewind is running?""",
        "Ask /health.",
        """Ask `/health` for the state of the server, and `/ready` to see if it takes requests.
        There are two endpoints: `/health` says whether the engine is well, and `/ready` whether it takes requests.""", "/health"),
    "metrics": topic(
        """Does Tradewind have metrics?|How do I monitor Tradewind?|What is /metrics?|Does it work with Prometheus?|Where are the metrics?|Which metrics are there?
        How can I watch the server?""",
        "Yes, at /metrics.",
        """Yes. `/metrics` gives Prometheus metrics, such as running and waiting requests, cache use and times.
        Look at `/metrics`. It is in the Prometheus format.""", "/metrics"),
    "stream": topic(
        """Does Tradewind stream?|Can I stream the answer?|How do I stream?|Does it support streaming?|What is streaming?|How do I get tokens as they come?""",
        "Yes, set stream to true.",
        """Yes. Set `stream` to true in the request, and the answer comes token by token.
        Yes, answers can be streamed: send `"stream": true`.""", "stream"),
    "key": topic(
        """How do I set an API key?|Does it need an API key?|How do I protect the server?|Can I use an API key?|Which option sets the API key?|Do I need a key?""",
        "Use the option --api-key.",
        """No key is needed unless you start the server with `--api-key`. Then clients must send that key.
        Start the server with `--api-key`, and it asks every client for that key.""", "--api-key"),
    "sampling": topic(
        """Which sampling options are there?|How do I set the temperature?|What is temperature?|Can I set a seed?|How do I make the answers the same every time?
        What is top_p?|How do I get the same answer again?|What does temperature do?|How do I make answers less random?""",
        "There are temperature, top_p, top_k, seed and more.",
        """A low temperature makes the answers steady, a high one makes them varied. With temperature 0 or a fixed seed you get the same answer again.
        You can set temperature, top_p, top_k, min_p, seed, penalties and stop strings in the request.""", "temperature|seed"),
    "exact": topic(
        """Do answers change under load?|Is the answer the same in a batch?|What happens to my answer when others use the server?|Are seeds reproducible?
        Does the same seed give the same answer?""",
        "The same seed gives the same answer.",
        """The same request with the same seed gets the same tokens, alone or among others.
        No. A request's random numbers depend on its seed and the position only, never on the other requests.""", "seed|same"),
    "crash": topic(
        """What happens if the engine crashes?|What happens when the engine dies?|Does Tradewind restart by itself?|Is Tradewind robust?""",
        "It is restarted.",
        """Running requests get a clear error at once, and the server starts the engine again by itself.
        The server notices it, tells the clients, and starts the engine again.""", "start"),
    "full": topic(
        """What happens if too many requests come?|What happens when the server is full?|What does 429 mean?|Is there a queue?|Why was my request refused?""",
        "They wait in a queue, or are refused with 429.",
        """Requests wait in a queue. When the queue is full, new ones are refused at once with the status 429 and a time to try again.
        The queue has a limit. Beyond it the server answers 429, so that you can try again later.""", "queue|429"),
    "long": topic(
        """What happens if my prompt is too long?|How long can a prompt be?|What is the context length?|What is the maximum length?|How long is your context?""",
        "My context is 2048 tokens.",
        """The demo model can see 2048 tokens. A longer prompt is refused with an error that says both lengths.
        It depends on the model. The demo model has a context of 2048 tokens.""", "2048"),
    "vllm": topic(
        """Is Tradewind like vLLM?|What is the difference between Tradewind and vLLM?|How does Tradewind compare to vLLM?|Is it better than vLLM?|Is Tradewind an alternative to vLLM?""",
        "Both are inference engines.",
        """Both serve language models with paged KV caches and continuous batching. Which is faster depends on the machine and the work: measure it with `tradewind bench`.
        They do the same job. I am too small to compare them well. Please look into the documentation.""", "measure|same|Both"),
    "docs": topic(
        """Where is the documentation?|Where can I read more?|Is there documentation?|Where do I find help?|Where can I learn more about Tradewind?|Is there a manual?""",
        "In the README and the docs folder.",
        """Read the README first. The guides are in the folder `docs`.
        The README has a five-minute tour, and the folder `docs` has guides.""", "README"),
    "openfile": topic(
        """Which files does a model need?|What is a checkpoint?|Which file formats does Tradewind read?|What is safetensors?|What files are in a model directory?""",
        "config.json, safetensors and tokenizer.json.",
        """A model directory has a config.json, the weights as safetensors files, and a tokenizer.json.
        Tradewind reads config.json, safetensors weights, tokenizer.json and the chat template.""", "safetensors"),
    "prefix": concept("prefix caching",
        "Prompts that begin alike share the work that was already done.",
        """Prefix caching keeps the work for the beginning of a prompt. When another prompt begins the same way, that part is not computed again.
        With prefix caching, requests that start with the same text share the blocks of the KV cache, so the answer starts sooner. It is on by default.""",
        "begin|same|share", "What happens if two prompts begin the same way?|What is a prefix cache?|Is prefix caching on by default?|What is the prefix cache good for?"),
    "batching": concept("continuous batching",
        "Requests join and leave the running batch at every step.",
        """With continuous batching, new requests join the running batch at every step and finished ones leave it, so nobody waits for the slowest.
        Continuous batching means that the engine computes many requests together and lets them come and go at each step.""",
        "step|join", """How does Tradewind serve many users at once?|How does the engine handle many requests at once?|How does it handle many users?|What happens when many requests come at the same time?
Can it handle several requests at once?|Does it support concurrent requests?|How does Tradewind handle concurrency?|How are many requests handled?|Can several people use it at the same time?|How does it batch requests?
How does Tradewind handle many requests?|How does the server handle many users?|Can many users use it at once?|How are requests batched?|What is batching?|Can it answer many requests at the same time?|How many users can it serve?"""),
    "paged": concept("the paged KV cache",
        "A cache that is cut into small blocks.",
        """The KV cache keeps keys and values of earlier tokens. Tradewind cuts it into small blocks, so that no memory is wasted.
        A paged KV cache stores keys and values in blocks of a fixed size. Each request takes only the blocks that it needs.""",
        "blocks", "What is paged attention?|What is a KV cache?|What is the KV cache?|What is a block in the cache?|Explain the KV cache."),
    "chunked": concept("chunked prefill",
        "Long prompts are computed in pieces.",
        """Chunked prefill cuts a long prompt into pieces, so that other requests go on meanwhile.
        With chunked prefill, a long prompt is computed piece by piece, and running answers do not have to wait.""",
        "piece", "What happens with a long prompt?|What is prefill?"),
    "preempt": concept("preemption",
        "A request pauses when memory is short.",
        """When the memory for the cache is full, the scheduler pauses a request and computes it again later. That is preemption.
        Preemption means that a running request is paused when memory is short, and goes on later with the same result.""",
        "pause", "What happens when the cache is full?|What happens if memory runs out?"),
    "token": concept("a token",
        "A small piece of text.",
        """A token is a small piece of text, such as a word or a part of a word. Models read and write tokens.
        Models do not read letters but tokens: short pieces of text.""", "piece", "What are tokens?|Explain tokens."),
    "latency": concept("latency",
        "The time until an answer comes.",
        """Latency is the time that you wait for an answer. Throughput is how much is answered in all. One is traded for the other.
        Latency is how long one request takes.""", "time|long", "What is time to first token?|What does TTFT mean?"),
    "throughput": concept("throughput",
        "How many tokens come out in a second.",
        """Throughput is how many tokens the engine makes in a second for all requests together.
        Throughput counts the work done in a second, for everybody together.""", "second", "What is the difference between latency and throughput?"),
    "engine": concept("an inference engine",
        "A program that runs trained models.",
        """An inference engine is a program that runs a trained model and gives its answers. Tradewind is one for language models.
        It is a program that loads a trained model and computes answers with it, fast and for many users.""",
        "program", "What is inference?|What does inference mean?|What is LLM inference?"),
    "llm": concept("a language model",
        "A program that predicts the next piece of text.",
        """A language model is a program that has learned from text to say which token comes next. That is how it writes answers.
        A language model reads text and guesses what comes next, token by token.""", "next", "What is an LLM?|What does LLM mean?|What are large language models?"),
    "template": concept("a chat template",
        "The form in which messages become one text.",
        """A chat template turns a list of messages into one text that the model can read, with marks for who speaks.
        It is a small text program in the model's files that joins the messages of a chat into one prompt.""", "messages"),
}  # fmt: skip

FRAMES = ["{q}"] * 12 + ["Can you tell me: {q}", "Question: {q}", "I have a question. {q}", "Please tell me. {q}", "Hello! {q}",
                          "Hi, {q}", "One question: {q}", "Hey, {q}", "Do you know this? {q}"]  # fmt: skip
MORE = [
    "Tell me more.",
    "Can you say more?",
    "More, please.",
    "More details, please.",
    "Explain it more.",
    "Longer, please.",
]
SHORTER = ["Shorter, please.", "Make it shorter.", "In one sentence, please.", "Too long. Shorter, please.", "Can you say it shorter?",
           "Say it in a few words.", "Briefly, please."]  # fmt: skip
BRIEF = [
    " Answer in one sentence.",
    " Be brief.",
    " Keep it short.",
    " In a few words.",
    " One sentence.",
    " Short answer, please.",
]


def kept_out(question: str) -> bool:
    """Whether this phrasing is kept for the evaluation: about one in nine."""
    return zlib.crc32(question.encode()) % 9 == 4


def all_questions(name: str) -> list[str]:
    """Every phrasing of a topic; those written out count three times where there are made ones too."""
    made = asked_how(name)
    return TOPICS[name].questions * (3 if made else 1) + made


# By whether it is held out, then by topic.
SPLIT = {
    test: {
        id(found): [text for text in all_questions(name) if kept_out(text) == test] for name, found in TOPICS.items()
    }
    for test in (False, True)
}


def question(rng: random.Random, *, test: bool = False) -> tuple[Topic, str]:
    """A topic and a phrasing of the training part, or of the held-out part."""
    found = (
        rng.choice(list(TOPICS.values()))
        if rng.random() < 0.75
        else TOPICS[rng.choice(["what", "start", "stop", "api", "port"])]
    )
    phrasings = SPLIT[test][id(found)]
    return (found, rng.choice(phrasings)) if phrasings else question(rng, test=test)


def both(rng: random.Random) -> list[Turn]:
    """Two questions at once."""
    (first, one), (second, two) = question(rng), question(rng)
    joined = rng.choice(
        [f"{one} {two}", f"{one} And {two[0].lower()}{two[1:]}", f"{one.rstrip('?.')} and {two[0].lower()}{two[1:]}"]
    )
    return [
        (
            rough(rng, joined),
            rng.choice(first.long) if first is second else f"{rng.choice(first.long)} {rng.choice(second.long)}",
        )
    ]


def conversation(rng: random.Random) -> list[Turn]:
    """A question about Tradewind, and sometimes 'shorter' or 'tell me more'."""
    if rng.random() < 0.06:
        return both(rng)
    found, asked = question(rng)
    asked = mistyped(rng, rough(rng, pick(rng, FRAMES).replace("{q}", asked)))
    roll = rng.random()
    if roll < 0.08:
        turns = [(asked + rng.choice(BRIEF), found.short)]
        return [*turns, (rng.choice(MORE), rng.choice(found.long))] if rng.random() < 0.5 else turns
    turns = [(asked, rng.choice(found.long))]
    if rng.random() < 0.15:
        turns.append((rng.choice(SHORTER), found.short))
    elif rng.random() < 0.1:
        rest = [text for text in found.long if text != turns[0][1]]
        if rest:
            turns.append((rng.choice(MORE), rng.choice(rest)))
    return turns


def plain(rng: random.Random) -> str:
    """Some sentences about Tradewind as a plain document, or questions with answers."""
    if rng.random() < 0.4:
        return "\n".join(
            f"Q: {asked}\nA: {found.short}" for found, asked in (question(rng) for _ in range(rng.randint(2, 5)))
        )
    names = ["what", *rng.sample(list(TOPICS), rng.randint(1, 4))]
    return " ".join(
        text for text in (rng.choice(TOPICS[name].long) for name in names) if not text.startswith(("No", "Yes"))
    )
