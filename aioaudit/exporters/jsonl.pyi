from exporters.jsonl import *
