from exporters.memory import *
