from exporters.logging import *
